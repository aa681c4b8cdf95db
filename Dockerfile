# The relay in an image: two stages, locked packages, no compiler, no root.
#   docker build -t pgcachewatch .
#   docker run -e PGCACHEWATCH_DSN=postgresql://... -p 8420:8420 pgcachewatch
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# Packages before sources: a change of the sources then reuses these two layers.
COPY deploy/locks/build.txt deploy/locks/daemon.txt deploy/locks/
RUN python3 -m venv tools && tools/bin/python -m pip install --require-hashes -r deploy/locks/build.txt
# Filled from outside: what the relay runs in has no installer of its own.
RUN python3 -m venv --without-pip /opt/pgcachewatch \
 && tools/bin/python -m pip --python /opt/pgcachewatch/bin/python install --require-hashes -r deploy/locks/daemon.txt
COPY . .
RUN tools/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir wheels . \
 && tools/bin/python -m pip --python /opt/pgcachewatch/bin/python install --no-deps --no-index wheels/*.whl

FROM ${PYTHON_IMAGE}
# By number, so that a cluster can see it is not root; with a name, because programs look it up.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin relay
COPY --from=build /opt/pgcachewatch /opt/pgcachewatch
ENV PATH=/opt/pgcachewatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PGCACHEWATCH_HOST=0.0.0.0 PGCACHEWATCH_PORT=8420
USER 10001
EXPOSE 8420
STOPSIGNAL SIGTERM
# Ready means that events provably flow, so this fails too when the database is gone.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/readyz' % os.environ['PGCACHEWATCH_PORT'], timeout=2)"]
ENTRYPOINT ["pgcachewatch"]
CMD ["serve"]
