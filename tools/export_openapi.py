"""Write the OpenAPI document: `python -m tools.export_openapi [FILE]`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "openapi.json"


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(file: Path) -> None:
    """Write the OpenAPI document of the app with default settings."""
    os.environ.clear()
    os.environ["ENV_FILE"] = os.devnull
    # Imported here, because the import loads the settings.
    from main import app

    file.write_text(as_text(app.openapi()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]) if sys.argv[1:] else FILE)
