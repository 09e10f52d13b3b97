"""Routers: the API, pages, feeds and the health check."""

from routers import feeds, health, login, pages, passwords, pictures, posts, users

ROUTERS = (
    users.router,
    login.router,
    passwords.router,
    pictures.router,
    posts.router,
    pages.router,
    feeds.router,
    health.router,
)
