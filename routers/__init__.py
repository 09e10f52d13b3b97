"""Routers: the API, pages, feeds and the health check."""

from routers import feeds, health, login, pages, passwords, pictures, posts, users

MODULES = (users, login, passwords, pictures, posts, pages, feeds, health)
ROUTERS = tuple(module.router for module in MODULES)
