"""Routers: the API, pages, feeds and the health check."""

from routers import (
    export,
    feeds,
    health,
    login,
    pages,
    passwords,
    pictures,
    posts,
    preview,
    users,
)

# Starlette tries routes in this order, so the most frequently used ones come first.
MODULES = (
    *(posts, pages, users, feeds, login),
    *(preview, passwords, pictures, export, health),
)
ROUTERS = tuple(module.router for module in MODULES)
