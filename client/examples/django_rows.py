"""Cached functions in Django, in one file: no project, no migrations.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app python django_rows.py

In a block that has written, the function reads by itself; after the block every hit has what was written.
"""

import os

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ.get("PGDATABASE", "app"),
            "USER": os.environ.get("PGUSER", ""),
            "PASSWORD": os.environ.get("PGPASSWORD", ""),
            "HOST": os.environ.get("PGHOST", ""),
            "PORT": os.environ.get("PGPORT", ""),
        }
    }
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402  # Django wants its settings first

import pgcachewatch  # noqa: E402
from pgcachewatch.contrib.django import barrier_on_commit, cached  # noqa: E402

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")

cache = pgcachewatch.Cache(maxsize=10_000)


class User(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "app"
        db_table = "users"


@cached(cache, rows=pgcachewatch.Row("users", id="user_id"))
def name_of(user_id: int) -> str | None:
    return User.objects.filter(id=user_id).values_list("name", flat=True).first()


def rename(relay: pgcachewatch.sync.Client, user_id: int, name: str) -> None:
    with transaction.atomic():
        User.objects.filter(id=user_id).update(name=name)
        assert name_of(user_id) == name  # not committed, and not for others
        barrier_on_commit(relay)


def main() -> None:
    with pgcachewatch.sync.connect(RELAY) as relay, cache.bound(relay):
        relay.wait_live()
        for name in ("Ada", "Barbara"):
            rename(relay, 1, name)
            print(f"user 1 is {name_of(1)}")  # runs the query
            print(f"user 1 is {name_of(1)}")  # a hit: no query, no network
    connection.close()


if __name__ == "__main__":
    main()
