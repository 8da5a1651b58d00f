"""D101 to D104: what a deploy target cannot do. See entry.py for what each one states."""

from __future__ import annotations

from .entry import Code


class WrongTarget(Code):
    """A deploy target launches nothing that the spec has.

    torchrun and Slurm run training, Docker and systemd run servers, Kubernetes and Ray run both. A spec with `train` and
    `serve` may have any of them: the target launches what it can.
    """

    id, slug = "D101", "wrong-target"
    stage = "build"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        serve: {max_seq_len: 512, weights: {dtype: fp32}, kv_cache: {dtype: fp32}}
        deploy: {target: slurm}
        """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        serve: {max_seq_len: 512, weights: {dtype: fp32}, kv_cache: {dtype: fp32}}
        deploy: {target: docker}
        """


class ReplicaSpansNodes(Code):
    """A replica of the server needs several nodes, and what launches it has one node a replica.

    A Deployment and KServe's InferenceService run independent pods; Docker, systemd and Ray start a process on one machine. A
    LeaderWorkerSet and an LLMInferenceService make one replica of several pods, which start and end together.
    """

    id, slug = "D102", "replica-spans-nodes"
    stage = "build"
    failing = """
        model: {preset: llama-3-70b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 2}
        serve: {max_seq_len: 4096, layout: {tp: 4, replicas: 1}}
        deploy: {target: kubernetes, image: registry.example/llama, serve_as: deployment}
        """
    fixed = """
        model: {preset: llama-3-70b}
        hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 2}
        serve: {max_seq_len: 4096, layout: {tp: 4, replicas: 1}}
        deploy: {target: kubernetes, image: registry.example/llama, serve_as: leader_worker_set}
        """


class TwoAutoscalers(Code):
    """KServe's objects choose their number of replicas themselves, so no other autoscaler can.

    An InferenceService has minReplicas and maxReplicas, which the plan and `max_replicas` fill in. A Deployment or a
    LeaderWorkerSet can be given `autoscaler: hpa` or `autoscaler: keda`.
    """

    id, slug = "D103", "two-autoscalers"
    stage = "build"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        serve: {max_seq_len: 512, weights: {dtype: fp32}, kv_cache: {dtype: fp32}}
        deploy: {target: kubernetes, image: registry.example/gpt2, serve_as: inference_service, autoscaler: hpa}
        """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: cpu}
        serve: {max_seq_len: 512, weights: {dtype: fp32}, kv_cache: {dtype: fp32}}
        deploy: {target: kubernetes, image: registry.example/gpt2, serve_as: inference_service}
        """


class NotForSlices(Code):
    """A deploy target does not start programs as the machines of the spec want them.

    A slice of TPUs has one process a host, which takes all chips of it; torchrun, Slurm and Ray start one a device. Slices are
    launched by Kubernetes, or as queued resources of Cloud TPU, which in turn have nothing but TPUs; the newest of these are to
    be had on Kubernetes alone.
    """

    id, slug = "D104", "not-for-slices"
    stage = "build"
    failing = """
        model: {preset: gpt2}
        hardware: {accelerator: tpu-v5e, topology: 2x4}
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        deploy: {target: slurm}
        """
    fixed = """
        model: {preset: gpt2}
        hardware: {accelerator: tpu-v5e, topology: 2x4}
        train: {objective: causal_lm, steps: 100, seq_len: 1024, global_batch: 64}
        deploy: {target: kubernetes, image: registry.example/gpt2}
        """
