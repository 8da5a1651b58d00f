"""Pipeline parallelism: a rank has the layers of its stages, and the micro-batches of a step pass through them (Huang 2019).

The schedules are those of torch.distributed.pipelining, stages are in stage.py. With tied embeddings the first stage and the
last one have the weight both, start with the same and take the same steps: what they exchange is its gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from .cuts import local_part
from .data import Zero
from .expert import add_visits_of_stages, with_loss
from .mesh import Axis
from .stage import Stage, splits_backward, take_shapes_as_given, with_gradient_known

EMBEDDING = "embed.weight"
"""The weight that the first stage and the last one share where embeddings are tied."""


class Pipeline(nn.Module):
    """This rank's stages as one module, whose parameters have the names that they have in the whole model."""

    def __init__(
        self,
        stages: Mapping[int, nn.Module],
        pp: Axis,
        *,
        num_stages: int,
        schedule: type[Any],
        hidden_size: int,
        token_parts: int = 1,
        dtype: torch.dtype | None = None,
        zero: Zero | None = None,
        is_tied: bool = False,
        balanced: tuple[int, int] | None = None,
    ) -> None:
        """`stages` by their ascending numbers, 0 the first of the model. Between them travels [B, T/token_parts, hidden_size].

        `dtype` is what travels in, None: that of the weights. `zero` is the level of data parallelism, if there is any.
        `balanced` are the layers of the whole model and the experts of one, where a bias keeps them evenly used.
        """
        super().__init__()
        self.numbers = tuple(stages)
        self.stages = nn.ModuleDict({str(number): stage for number, stage in stages.items()})
        self.pp, self.num_stages, self.schedule = pp, num_stages, schedule
        self.hidden_size, self.token_parts, self.dtype = hidden_size, token_parts, dtype
        self.zero: Zero | None = zero
        self.is_tied, self.balanced = is_tied, balanced
        self._precision: AbstractContextManager[Any] = nullcontext()
        self._loss_share = 1.0
        self._router_losses: list[Tensor] = []
        self._schedules: dict[tuple[int, ...], Any] = {}
        if self.device.type in ("cuda", "npu"):
            dist.barrier(
                group=pp.group
            )  # NCCL and HCCL: messages in batches want a group that all its ranks have entered

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def last(self) -> nn.Module | None:
        """The last stage of the model, if this rank has it."""
        return self._stage(self.num_stages - 1)

    def _stage(self, number: int) -> nn.Module | None:
        return self.stages[str(number)] if number in self.numbers else None

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As in the whole model, each once: a second copy of the embedding on the same rank only follows the first."""
        seen = set()
        for stage in self.stages.values():
            for name, parameter in stage.named_parameters(prefix, recurse, remove_duplicate):
                if name not in seen:
                    seen.add(name)
                    yield name, parameter

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As in the whole model."""
        return {
            name: each for stage in self.stages.values() for name, each in stage.state_dict(*args, **kwargs).items()
        }

    def step(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        tokens_per_step: int,
        scale: float = 1.0,
        precision: AbstractContextManager[Any] | None = None,
    ) -> Tensor:
        """The forward and backward passes of all micro-batches. Gives the mean loss: of tokens on ranks with the last stage, of
        routers on those that have them. Gradients are those of the loss times `scale`."""
        self._precision, self._loss_share = precision or nullcontext(), scale / tokens_per_step
        self._router_losses = []
        self._copy_tied_weight()
        tokens, targets = (list(each) for each in zip(*batches, strict=True))
        schedule = self._made_schedule(len(tokens), tokens[0])
        inputs = (torch.cat(tokens),) if self._stage(0) is not None else ()
        wanted = torch.cat(targets) if self.last is not None else None
        losses: list[Tensor] = []
        with torch.autocast(self.device.type, enabled=False):  # all micro-batches share what autocast makes of a weight
            schedule.step(*inputs, target=wanted, losses=losses, return_outputs=False)
        self._sum_tied_gradients()
        losses += self._router_losses
        if not losses:
            return torch.zeros((), device=self.device)
        return torch.stack([loss.detach() for loss in losses]).sum() / scale

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], *, precision: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """[2]: on ranks with the last stage the loss summed over tokens and their number, else zeros."""
        self._precision = precision or nullcontext()
        self._copy_tied_weight()
        shown = list(batches)
        sums = torch.zeros(2, device=self.device)
        passed: dict[int, list[Tensor]] = {}  # from stage to stage of this rank
        sending = []
        for number in self.numbers:
            outputs = []
            for index, (tokens, targets) in enumerate(shown):
                if number == 0:
                    x = tokens
                elif number - 1 in passed:
                    x = passed[number - 1][index]
                else:
                    x = self._hidden(tokens, device=self.device)
                    dist.recv(x, group=self.pp.group, group_src=self._rank_of(number - 1))
                with self._precision:
                    x = self.stages[str(number)](x)
                    if number == self.num_stages - 1:
                        sums += torch.stack((self._loss_of(x, targets), sums.new_tensor(targets.numel())))
                outputs.append(x)
                if number < self.num_stages - 1 and number + 1 not in self.numbers:
                    to = self._rank_of(number + 1)
                    sending.append((dist.isend(x.contiguous(), group=self.pp.group, group_dst=to), x))
            passed[number] = outputs
        for work, _ in sending:
            work.wait()
        return sums

    def _loss_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        assert self.last is not None
        return self.last.loss(hidden, targets)  # type: ignore[operator]

    def _rank_of(self, number: int) -> int:
        """The rank of pp that has a neighbour of this rank's stages: schedules in a V turn round where rounds meet."""
        turn, place = divmod(number, self.pp.size)
        is_v = self.num_stages - 1 - self.numbers[0] in self.numbers and len(self.numbers) == 2
        return self.pp.size - 1 - place if is_v and turn % 2 else place

    def _hidden(self, tokens: Tensor, *, device: torch.device | str) -> Tensor:
        """Room for what travels between stages for tokens [B, T]."""
        num_sequences, num_tokens = tokens.shape
        shape = (num_sequences, num_tokens // self.token_parts, self.hidden_size)
        return torch.empty(shape, dtype=self.dtype or next(self.parameters()).dtype, device=device)

    def _made_schedule(self, num_batches: int, tokens: Tensor) -> Any:
        """The schedule for micro-batches of this number and shape."""
        key = (num_batches, *tokens.shape)
        if key not in self._schedules:
            hidden = self._hidden(tokens, device="meta").requires_grad_()
            shown = torch.empty(tokens.shape, dtype=tokens.dtype, device="meta")
            stages = [
                Stage(
                    stage,
                    int(number),
                    self.num_stages,
                    self.pp,
                    x=hidden if int(number) else shown,
                    y=hidden,
                    zero=self.zero,
                    precision=lambda: self._precision,
                    ending=self._with_router_loss,
                    device=self.device,
                )
                for number, stage in self.stages.items()
            ]
            is_single = issubclass(self.schedule, PipelineScheduleSingle)
            schedule = self.schedule(
                stages[0] if is_single else stages, num_batches, loss_fn=self._share_of_loss, scale_grads=False
            )
            schedule._warmup_p2p = take_shapes_as_given
            self._schedules[key] = schedule
        return self._schedules[key]

    def _share_of_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        with self._precision:
            if not splits_backward(self.schedule):
                return self._loss_of(hidden, targets) * self._loss_share
            assert self.last is not None
            start = hidden.detach().requires_grad_()
            return with_gradient_known(
                hidden, start, self._loss_of(start, targets) * self._loss_share, model=self.last, zero=self.zero
            )

    # ------------------------------------------------------------------------------------------------------------- experts

    def router_loss(self) -> Tensor:
        """What uneven use of the experts of this rank's layers cost in the last forward pass, as a mean over its tokens."""
        found = [_router_loss(stage) for stage in self.stages.values()]
        return sum((loss.detach() for loss in found if loss is not None), torch.zeros((), device=self.device))

    def _with_router_loss(self, stage: nn.Module, x: Tensor) -> Tensor:
        """A stage's output; what comes back for it goes back through the loss of the stage's routers as well."""
        loss = _router_loss(stage) if self.training else None
        if loss is None:
            return x
        num_tokens = x.shape[0] * x.shape[1] * self.token_parts
        share = loss * (num_tokens * self._loss_share)
        self._router_losses.append(share.detach())
        return with_loss(x, share)

    def balance_experts(self) -> None:
        """After a step: every stage moves the bias of its experts, if they have one, by the visits of all ranks."""
        if self.balanced is None:
            return
        visits = {
            int(name.rpartition("layers.")[2].partition(".")[0]): buffer
            for name, buffer in self.named_buffers()
            if name.endswith(".visits")
        }
        layers, experts = self.balanced
        add_visits_of_stages(visits, layers=layers, experts=experts, device=self.device)
        for stage in self.stages.values():
            stage.balance_experts()  # type: ignore[operator]

    # ---------------------------------------------------------------------------------------------------- tied embeddings

    def _ends(self) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        """The embedding's weight on the first stage and on the last, as far as they are on this rank."""
        first, last = self._stage(0), self.last
        found = [None if stage is None else stage.get_parameter(EMBEDDING) for stage in (first, last)]
        return found[0], found[1]

    def _copy_tied_weight(self) -> None:
        if not self.is_tied:
            return
        first, last = self._ends()
        if first is not None and last is not None:
            local_part(last)[0].copy_(local_part(first)[0])

    def _sum_tied_gradients(self) -> None:
        """Add what the head has to the embedding's gradient: on one rank, or by a swap between the first and the last."""
        if not self.is_tied:
            return
        first, last = self._ends()
        if first is not None and last is not None:
            assert first.grad is not None
            assert last.grad is not None
            local_part(first.grad)[0].add_(local_part(last.grad)[0])
            last.grad = None
        elif (weight := first if first is not None else last) is not None:
            assert weight.grad is not None
            own = local_part(weight.grad)[0]
            if not own.numel():
                return  # a shard beyond the last row
            other, peer = torch.empty_like(own), self.pp.size - 1 - self.pp.rank
            send = dist.P2POp(dist.isend, own, group=self.pp.group, group_peer=peer)
            receive = dist.P2POp(dist.irecv, other, group=self.pp.group, group_peer=peer)
            for work in dist.batch_isend_irecv([send, receive]):
                work.wait()
            own.add_(other)


def _router_loss(stage: nn.Module) -> Tensor | None:
    """None: a stage without experts, or experts whose routers have no loss."""
    return stage.router_loss() if hasattr(stage, "router_loss") else None  # type: ignore[operator]
