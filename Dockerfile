# The backend in two builds from the same files:
#   docker build --target cpu -t int-backend:cpu .
#   docker build --target gpu -t int-backend:gpu .     (needs the NVIDIA container toolkit to run)
# Both listen on all addresses of the container, so they want BASIC_AUTH_USER and BASIC_AUTH_PASS, or
# INT_OPEN_TO_NETWORK=true where the port is published to those only who may call.
# Both carry the bundled miniature models. Other profiles fetch their weights on first use into /data/huggingface.

FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv

# Each package comes from one index, and all but torch only as a file whose hash is known.
FROM base AS packages
COPY requirements.txt requirements-torch.txt /tmp/
RUN pip install --require-hashes --no-deps -r /tmp/requirements.txt

# PyTorch's own index holds builds without CUDA; `torch==2.13.0` takes `2.13.0+cpu` from it.
FROM packages AS packages-cpu
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r /tmp/requirements-torch.txt

# The build on the Python Package Index brings the CUDA libraries itself.
FROM packages AS packages-gpu
RUN pip install -r /tmp/requirements-torch.txt bitsandbytes==0.50.2

FROM base AS service
ENV INT_HOST=0.0.0.0 \
    INT_PORT=9090 \
    INT_DATA_DIR=/data \
    HF_HOME=/data/huggingface
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin int-backend \
    && install --directory --mode 0700 --owner int-backend --group int-backend /data
WORKDIR /app
COPY pyproject.toml README.md LICENSE NOTICE /app/
COPY int_model /app/int_model
COPY ml_backend /app/ml_backend
COPY scripts/healthcheck.py /app/healthcheck.py
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["python", "/app/healthcheck.py"]
CMD ["int-backend", "serve"]

FROM service AS gpu
COPY --from=packages-gpu /opt/venv /opt/venv
RUN pip install --no-deps --no-build-isolation /app
USER int-backend

FROM service AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
RUN pip install --no-deps --no-build-isolation /app
USER int-backend
