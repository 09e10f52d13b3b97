"""Paths of routes, for links and `Location` headers."""

from functools import cache

from fastapi import FastAPI


def path_for(app: FastAPI, name: str, **parameters: object) -> str:
    """Return the path of a route; `url_for` would use the host of the request.

    Unlike `app.url_path_for`, it searches all routes only once for each name.
    """
    return path_pattern(app, name, *parameters).format(**parameters)


@cache
def path_pattern(app: FastAPI, name: str, *parameters: str) -> str:
    placeholders = {parameter: f"{{{parameter}}}" for parameter in parameters}
    return str(app.url_path_for(name, **placeholders))
