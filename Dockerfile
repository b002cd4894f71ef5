# Two images: `service` answers and trains, `page` shows. Nothing in them can be written by who runs in them.
#   docker build --target service --tag ml-service:0.1.0 .
#   docker build --target page --tag ml-service-page:0.1.0 .
# TORCH_INDEX is the address of an index of torch's CPU builds; without it Linux gets the CUDA build, some GB more.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

# Wheels from this machine: docker build --build-context wheels=FOLDER …
FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/app/bin:/venv/bin:$PATH PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
# A number of its own, so that volumes keep their owner; no name that a shell could log in with.
RUN groupadd --gid 10001 service && useradd --uid 10001 --gid 10001 --home-dir /tmp --shell /usr/sbin/nologin service

FROM ${PYTHON_IMAGE} AS tools
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore VIRTUAL_ENV=/venv
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /build
# The secret `ca`, a file of certificates, is for networks with a proxy of their own.
COPY --chmod=755 <<'EOF' /usr/local/bin/install
#!/bin/sh
set -eu
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
exec pip install --quiet --find-links /wheels ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@"
EOF

# What each image needs, taken out of pyproject.toml: another change of that file, or of the code, installs nothing anew.
FROM tools AS needs
COPY pyproject.toml ./
RUN python <<'EOF'
import pathlib, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))
for name, needs in ("service", project["project"]["dependencies"]), ("page", project["dependency-groups"]["page"]):
    pathlib.Path(f"{name}.txt").write_text("\n".join(needs))
EOF

FROM tools AS service-packages
COPY requirements.lock ./
COPY --from=needs /build/service.txt ./
ARG TORCH_INDEX=
RUN --mount=type=secret,id=ca,required=false --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    install --requirement service.txt --constraint requirements.lock \
    && pip uninstall --quiet --yes pip

FROM tools AS page-packages
COPY requirements.lock ./
COPY --from=needs /build/page.txt ./
RUN --mount=type=secret,id=ca,required=false --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    install --requirement page.txt --constraint requirements.lock \
    && pip uninstall --quiet --yes pip

# The code, compiled: the operators by g++, the modules by Python. It lies apart from the packages, in a small layer.
FROM tools AS code
COPY pyproject.toml requirements.lock README.md LICENSE train_distributed.py ./
COPY lib lib
COPY ml_service ml_service
RUN --mount=type=secret,id=ca,required=false --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    install --no-deps --target /app . && cp requirements.lock train_distributed.py LICENSE /app/ \
    && sed -i '1s|.*|#!/venv/bin/python|' /app/bin/ml-service && python -m compileall -q /app

# Which commit that is: what the tree says of itself, else COMMIT; a tree that was changed says so.
FROM tools AS commit
ARG COMMIT=
RUN --mount=type=bind,target=/tree <<'EOF'
set -eu
git="git -C /tree -c safe.directory=*"
if sha=$($git rev-parse HEAD 2>/dev/null); then
    changes=$($git status --porcelain -- ml_service lib data/bundle pyproject.toml requirements.lock train_distributed.py)
    [ -z "$changes" ] || sha=$sha-dirty
fi
printf '%s\n' "${sha:-$COMMIT}" > /COMMIT
EOF

FROM base AS page
COPY --from=page-packages /venv /venv
COPY --from=code /app /app
COPY --from=commit /COMMIT /app/COMMIT
USER 10001:10001
WORKDIR /app
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-m", "lib.http_check", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["ml-service"]
CMD ["page", "--host", "0.0.0.0"]

FROM base AS service
COPY --from=service-packages /venv /venv
COPY --from=code /app /app
COPY --from=commit /COMMIT /app/COMMIT
COPY data/bundle /app/data/bundle
RUN install --directory --owner 10001 --group 10001 /store
ENV ML_SERVICE_HOST=0.0.0.0 ML_SERVICE_STORE=/store
USER 10001:10001
WORKDIR /app
VOLUME /store
EXPOSE 8000
# No HEALTHCHECK: the same image serves and trains, and whoever starts it says what is healthy (docker-compose.yml).
ENTRYPOINT ["ml-service"]
CMD ["serve"]
