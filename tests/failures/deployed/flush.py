"""FLUSHALL: Celery's Redis forgets everything."""

import os

import redis

if __name__ == "__main__":
    with redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]) as client:
        assert client.flushall()
