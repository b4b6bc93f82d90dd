# One image for every role: Primary, worker, beat and gateway (docs/operations/running.md).
FROM python:3.11-slim AS packages
WORKDIR /build
COPY requirements.txt .
RUN python -m venv /opt/mazevault \
    && /opt/mazevault/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt

FROM python:3.11-slim
RUN groupadd --gid 10001 mazevault \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mazevault \
    && install -d -o mazevault -g mazevault -m 0700 /data /certs
COPY --from=packages /opt/mazevault /opt/mazevault
WORKDIR /app
COPY manage.py ./
COPY orchestrator orchestrator
COPY protocol protocol
COPY common common
COPY accounts accounts
COPY vault vault
COPY gateways gateways
COPY gateway_runtime gateway_runtime
COPY integrations integrations
COPY failover failover
ENV PATH=/opt/mazevault/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOG_FORMAT=json
USER 10001:10001
VOLUME ["/data", "/certs"]
EXPOSE 8443
# Asks for liveness: a container that is cut off from its database or from the Primary is healthy all the same, and must not be restarted.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["python", "manage.py", "probe"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
