# hpcbench with everything that its ranks need:
#
#     docker build -t hpcbench .                                  torch for NVIDIA GPUs
#     docker build -t hpcbench --build-arg FLAVOUR=cpu .          a smaller one, for any machine
#     docker build -t hpcbench --build-arg FLAVOUR=none .         no torch: collect, audit, status
#     docker build -t hpcbench --target compile .                 with a compiler, for `compile: true`
#
# docs/containers.md has the rest. There is no `# syntax=` line: it would be fetched, and nothing here needs it.

# `make pin-base` adds the digest that the registry gives for this tag.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Files come by COPY and not by bind mounts: builders of some years ago (buildah 1.28) take a step from their cache
# even though what was bound has changed.

# What has to be installed, without the rest of pyproject.toml: a change there must not install torch anew.
FROM ${BASE} AS requirements
ARG FLAVOUR=cuda
COPY containers/install.sh pyproject.toml /src/
RUN sh /src/install.sh list "${FLAVOUR}" /src/pyproject.toml >/requirements.txt

FROM ${BASE} AS dependencies
ARG FLAVOUR=cuda
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=requirements /requirements.txt /src/
COPY containers/install.sh constraints.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip \
    CPU_INDEX="${CPU_INDEX}" sh /src/install.sh dependencies "${FLAVOUR}" /src/requirements.txt /src/constraints.txt

FROM dependencies AS package
COPY LICENSE README.md pyproject.toml /src/
COPY hpcbench /src/hpcbench
RUN --mount=type=cache,target=/root/.cache/pip sh /src/install.sh package /src /opt/package

FROM ${BASE} AS image
RUN useradd --create-home --uid 1000 bench && install -d -m 1777 /results /data
COPY --from=dependencies /opt/hpcbench /opt/hpcbench
COPY --from=package /opt/package /opt/hpcbench
COPY containers/install.sh /opt/hpcbench/share/
RUN MPLCONFIGDIR=/tmp sh /opt/hpcbench/share/install.sh compile && rm -rf /tmp/*
# Caches go where anybody may write, whoever the container runs as.
ENV PATH=/opt/hpcbench/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
VOLUME ["/results", "/data"]
WORKDIR /results
USER 1000:1000
ENTRYPOINT ["hpcbench"]
CMD ["--help"]

FROM image AS compile
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
USER 1000:1000

FROM image AS hpcbench
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="hpcbench" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
