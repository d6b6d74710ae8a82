# rrft_jax for CPUs. From the project's root:
#
#   docker build -f launch/cpu.Dockerfile -t rrft_jax:cpu .
#   docker run --rm --init --user "$(id -u):$(id -g)" -v "$PWD:/work" rrft_jax:cpu \
#       --config=configs/grpo.py --workdir=runs/demo
#
# The container's folder /work is the current folder: runs are written there, and paths of data and
# models start there. Arguments are those of `rrft`.
FROM python:3.12-slim-bookworm

WORKDIR /src
COPY setup.py pyproject.toml MANIFEST.in constraints.txt README.md LICENSE ./
COPY rrft_jax rrft_jax
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt .

# Any user of the host may run it, so the home is a folder that anybody may write to.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["rrft"]
CMD ["--help"]
