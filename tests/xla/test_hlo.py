"""Collectives are read from the text of compiled programs."""

from __future__ import annotations

from llmc.compiler.verify.hlo import Collective, collectives_of

TEXT = """
  %all-gather.3 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-gather(%param.1), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %ar = (f32[]{:T(128)}, f32[4096]{0:T(1024)}) all-reduce(%a, %b), channel_id=33, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  %ags = (bf16[512,8]{1,0}, bf16[4096,8]{1,0}) all-gather-start(%x), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  %cp = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%y), channel_id=5, source_target_pairs={{0,1},{1,2}}
  %agm = bf16[4096,8]{1,0} all-gather(%z), channel_id=8, replica_groups=mesh['axis_0'=2,'axis_1'=4,'axis_2'=1] {'axis_1'}, dimensions={1}
  %other = f32[8]{0} add(%y, %y)
"""


def test_collectives_are_read_with_their_bytes_and_groups() -> None:
    assert list(collectives_of(TEXT)) == [
        Collective("all-gather", 4096 * 1024 * 2, (0, 1, 2, 3)),
        Collective("all-reduce", 4 + 4096 * 4, (0, 2, 4, 6)),
        Collective("all-gather", 4096 * 8 * 2, (0, 4)),
        Collective("all-gather", 4096 * 8 * 2, (0, 1, 2, 3)),
        Collective("collective-permute", 8 * 4, (0, 1)),
    ]


LOOP = """
%body.1 (wide: (bf16[8,4], bf16[1,4])) -> (bf16[8,4], bf16[1,4]) {
  %one = (bf16[1,4]{1,0}, bf16[1,4]{1,0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %back = (bf16[1,4]{1,0}, bf16[1,4]{1,0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,3},{1,0},{2,1},{3,2}}
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,4] {
  %first = (bf16[1,4]{1,0}, bf16[1,4]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %while.2 = (bf16[8,4]{1,0}, bf16[1,4]{1,0}) while(%tuple), condition=%test.1, body=%body.1
  %apart = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%y), source_target_pairs={{0,2},{2,0}}
}
"""


def test_a_loop_that_permutes_is_one_ring_with_its_first_hop() -> None:
    assert list(collectives_of(LOOP)) == [
        Collective("collective-permute", 8 * 4, (0, 2)),
        Collective("ring", 4 * 2, (0, 1)),
    ]
