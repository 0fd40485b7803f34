# One image for every role: caselog migrate, caselog worker recorder, tasks or status. docs/deploy.md says how to run it.
ARG PYTHON_IMAGE=python:3.12.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Every file that is installed below was checked against its hash here; the network is not asked again.
COPY requirements.lock ./
RUN pip wheel --quiet --no-deps --require-hashes --wheel-dir /wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
COPY events/ events/
COPY schema/ schema/
COPY workers/ workers/
# The lock names development tools too. Asked for caselog alone, pip takes of the wheels only what it needs at run time.
RUN pip install --quiet --no-index --find-links /wheels hatchling \
 && pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/caselog \
 && pip --python /opt/caselog/bin/python install --quiet --no-index --find-links /wheels 'caselog[workers]'

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 caselog \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin caselog \
 && install --directory --owner caselog --group caselog --mode 0700 /var/lib/caselog/exports # a volume takes its owner
COPY --from=build /opt/caselog /opt/caselog
# What /ping.json says. Given late, because they change with every build.
ARG VERSION_NUMBER=""
ARG BUILD_DATE=""
ARG COMMIT_ID=""
ARG BUILD_TAG=""
ENV PATH=/opt/caselog/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CASELOG_HTTP_HOST=0.0.0.0 \
    CASELOG_VERSION_NUMBER=$VERSION_NUMBER \
    CASELOG_BUILD_DATE=$BUILD_DATE \
    CASELOG_COMMIT_ID=$COMMIT_ID \
    CASELOG_BUILD_TAG=$BUILD_TAG
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["caselog"]
CMD ["--help"]
