# srq on the CPU: docker build -t srq .
FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.13-slim
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu /wheels/*.whl
RUN useradd --create-home srq && mkdir /pictures && chown srq /pictures
USER srq
ENV SRQ_CACHE=/tmp/srq-cache
WORKDIR /pictures
ENTRYPOINT ["srq"]
CMD ["--help"]
