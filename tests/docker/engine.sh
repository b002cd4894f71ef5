#!/bin/sh
# An engine and the images that the stack names: what is there is left as it is.
set -eu
cd "$(dirname "$0")/../.."
up=../shared/tools/docker/docker-up.sh
if ! docker info >/dev/null 2>&1; then
    [ -x "$up" ] || { echo "no Docker engine answers here, and $up is not there to bring one up" >&2; exit 1; }
    "$up"
fi
docker compose version >/dev/null || { echo 'the Docker engine has no compose' >&2; exit 1; }
# Where no registry can be reached, stand-ins of other names do.
stand_in() {
    docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" 2>/dev/null || docker tag "$2" "$1"
}
image() { sed -n "s|^ *image: \($1:.*\)|\1|p" docker-compose.yml; }
stand_in "$(sed -n 's|^ARG PYTHON_IMAGE=||p' Dockerfile)" python:3.11-slim-bookworm
stand_in "$(image postgres)" postgres:16
stand_in "$(image nginx)" nginx:stable
stand_in "$(image prom/prometheus)" prom/prometheus:latest
