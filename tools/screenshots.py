"""Take the screenshots in the README: `python -m tools.screenshots`.

Requires Chromium.
"""

from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from tests.server import LiveServer
from tools.demo_site import CHROMIUM_FLAGS, EMAIL, chromium, demo_site
from tools.seed import PASSWORD

FOLDER = Path(__file__).parents[1] / "docs"
DESKTOP = (1280, 800)
PHONE = (390, 844)
# The pages have flat colors, so a small palette saves space with no visible difference.
COLORS = 128


def take(page: Page, name: str) -> None:
    """Save a screenshot of the page."""
    page.wait_for_load_state("networkidle")
    screenshot = Image.open(BytesIO(page.screenshot(animations="disabled")))
    screenshot.quantize(COLORS, dither=Image.Dither.NONE).save(
        FOLDER / f"{name}.png", optimize=True
    )


def new_page(
    browser: Browser, url: str, size: tuple[int, int], theme: str, token: str = ""
) -> Page:
    """Open a page in a new browser context, logged in if a token is given."""
    stored = {"theme": theme, "access_token": token}
    state: StorageState = {
        "origins": [
            {
                "origin": url,
                "localStorage": [
                    {"name": name, "value": value}
                    for name, value in stored.items()
                    if value
                ],
            }
        ]
    }
    return browser.new_page(
        base_url=url,
        viewport={"width": size[0], "height": size[1]},
        storage_state=state,
    )


def take_all(browser: Browser, site: LiveServer) -> None:
    """Take screenshots of the pages for readers, the editor and the account page."""
    token = site.log_in(EMAIL, PASSWORD)
    bearer = {"Authorization": f"Bearer {token}"}
    me = site.client.get("/api/users/me", headers=bearer).json()
    posts = site.call("GET", f"/api/users/{me['id']}/posts?limit=100")["posts"]
    longest = max(posts[:10], key=lambda post: len(post["content"]))

    page = new_page(browser, site.url, DESKTOP, "light")
    page.goto("/")
    take(page, "home")

    page = new_page(browser, site.url, DESKTOP, "dark", token)
    page.goto(f"/posts/{longest['id']}")
    page.locator("[data-post-view-target=ownerActions]:not([hidden])").wait_for()
    take(page, "post-dark")

    page = new_page(browser, site.url, DESKTOP, "light", token)
    page.goto("/account")
    take(page, "account")
    page.goto("/")
    page.locator("[data-bs-target='#post-create']").first.click()
    dialog = page.locator("#post-create")
    dialog.get_by_label("Title").fill("The tomatoes, at last")
    dialog.get_by_label("Content").fill(
        "Red since this morning.\n\nIt took longer than I thought, and less skill."
    )
    take(page, "editor")

    page = new_page(browser, site.url, PHONE, "dark")
    page.goto("/")
    take(page, "phone-home-dark")

    page = new_page(browser, site.url, PHONE, "light")
    page.goto(f"/users/{me['id']}/posts")
    take(page, "phone-author")
    page.goto(f"/posts/{longest['id']}")
    take(page, "phone-post")


def main() -> None:
    with demo_site() as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=CHROMIUM_FLAGS
        )
        take_all(browser, site)
        browser.close()


if __name__ == "__main__":
    main()
