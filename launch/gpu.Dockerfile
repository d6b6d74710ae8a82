# rrft_jax for NVIDIA GPUs. From the project's root:
#
#   docker build -f launch/gpu.Dockerfile -t rrft_jax:gpu .
#   docker run --rm --init --gpus=all --user "$(id -u):$(id -g)" -v "$PWD:/work" rrft_jax:gpu \
#       --config=configs/grpo.py:model=2b --config.model.path=Qwen2-VL-2B-Instruct \
#       --config.data.path=Reason-RFT-CoT-Dataset --workdir=runs/counting
#
# The host needs NVIDIA's driver for CUDA 13 and the NVIDIA Container Toolkit. CUDA itself comes with
# JAX's wheels, so the base image has none. The container's folder /work is the current folder.
FROM python:3.12-slim-bookworm

WORKDIR /src
COPY setup.py pyproject.toml MANIFEST.in constraints.txt README.md LICENSE ./
COPY rrft_jax rrft_jax
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt '.[cuda]'

# The toolkit brings the driver into an image that says what it needs.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Any user of the host may run it, so the home is a folder that anybody may write to.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["rrft"]
CMD ["--help"]
