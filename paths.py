"""Paths of routes, for links and `Location` headers."""

from functools import cache

from fastapi import FastAPI


def path_for(app: FastAPI, name: str, **parameters: object) -> str:
    """Return the path of a route.

    `request.url_for` would return a URL with the host of the request, which the client
    can forge. `app.url_path_for` would search all routes on every call.
    """
    return path_pattern(app, name, *parameters).format(**parameters)


@cache
def path_pattern(app: FastAPI, name: str, *parameters: str) -> str:
    placeholders = {parameter: f"{{{parameter}}}" for parameter in parameters}
    return str(app.url_path_for(name, **placeholders))
