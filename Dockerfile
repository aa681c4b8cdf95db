# The relay in an image: built in one stage, run in another; locked packages, no compiler, no installer, no root.
#   docker build -t pgcachewatch .
#   docker run -e PGCACHEWATCH_DSN=postgresql://... -v ./tokens.toml:/etc/pgcachewatch/tokens.toml:ro \
#     -e PGCACHEWATCH_TOKENS_FILE=/etc/pgcachewatch/tokens.toml -p 127.0.0.1:8420:8420 pgcachewatch
# In a container the relay has to bind more than loopback, and then it refuses to start until it is told who may come:
# by tokens, or by PGCACHEWATCH_ALLOW_ANONYMOUS=true, where nobody but friends can reach the port.
#
# Debian and its own Python rather than an image that brings one: 15 MB less, with no installer in it, and security
# fixes of both come by one way. A tag, so that a build has the fixes of its day. Who needs the same bytes again names a
# digest: --build-arg BASE_IMAGE=debian:trixie-slim@sha256:...
ARG BASE_IMAGE=debian:trixie-slim

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS base
# Bytecode goes: of the standard library the relay needs a quarter, see below.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* \
 && find /usr/lib/python3* -name __pycache__ -prune -exec rm -r {} +
# By number, so that a cluster can see it is not root; with a name, because programs look it up.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin relay

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
# What the image is made of, before this stage adds to it: for the bill of materials.
RUN cp /var/lib/dpkg/status image-packages
# Symbols for debuggers are half of the wheels' bytes. Nothing of this stage but /opt/pgcachewatch gets into the image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils python3-venv \
 && rm -rf /var/lib/apt/lists/*
# For traces, 7 MB and fifteen packages that few need: --build-arg EXTRAS=otel
ARG EXTRAS=daemon
# Packages before sources: a change of the sources then reuses these two layers.
COPY deploy/locks/build.txt deploy/locks/${EXTRAS}.txt deploy/locks/
RUN python3 -m venv tools && tools/bin/python -m pip install --require-hashes -r deploy/locks/build.txt
# Filled from outside: what the relay runs in has no installer of its own.
RUN python3 -m venv --without-pip /opt/pgcachewatch \
 && tools/bin/python -m pip --python /opt/pgcachewatch/bin/python install --no-compile \
      --require-hashes -r "deploy/locks/${EXTRAS}.txt" \
 && find /opt/pgcachewatch -name '*.so*' -type f -exec strip --strip-unneeded {} + \
 && find /opt/pgcachewatch -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete
COPY . .
RUN tools/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir wheels . \
 && tools/bin/python -m pip --python /opt/pgcachewatch/bin/python install --no-compile --no-deps --no-index wheels/*.whl \
 && cp deploy/healthcheck.py /opt/pgcachewatch/ \
 && /opt/pgcachewatch/bin/python deploy/sbom.py --system image-packages > /opt/pgcachewatch/sbom.cdx.json
# Bytecode of what a relay imports and of nothing else, of the standard library too: nobody can write it later, and
# compiling it at each start would take longer than everything else.
RUN env --unset=PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=/opt/pgcachewatch/bytecode \
    /opt/pgcachewatch/bin/python deploy/bytecode.py

FROM base
COPY --from=build /opt/pgcachewatch /opt/pgcachewatch
ENV PATH=/opt/pgcachewatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/pgcachewatch/bytecode \
    PGCACHEWATCH_HOST=0.0.0.0 PGCACHEWATCH_PORT=8420
# Last, because they differ at each build: --build-arg VERSION=... REVISION=$(git rev-parse HEAD) SOURCE=https://...
ARG VERSION=unversioned
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="PGCacheWatch" \
      org.opencontainers.image.description="A relay beside PostgreSQL that tells caches which rows changed" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001
EXPOSE 8420
STOPSIGNAL SIGTERM
# Ready means that events provably flow, so this fails too when the database is gone.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-I", "-S", "/opt/pgcachewatch/healthcheck.py"]
# No init in front: the relay answers signals as process 1, and collects its own workers.
ENTRYPOINT ["pgcachewatch"]
CMD ["serve"]
