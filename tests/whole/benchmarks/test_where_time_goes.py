import json
import re

import jax
import pytest

from benchmarks import train_step
from benchmarks import where_time_goes as where
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs

# Lines of the program of `BinaryNet`, as jaxlib 0.10.2 compiles it for a CPU; backend
from sgdat_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Lines of the program of `BinaryNet`, as jaxlib 0.10.2 compiles it for a CPU; backend
# configurations and most operands are left out.
LINES = {
    where.BITS: (
        "%bitcast_reduce_fusion.3 = (u32[64,8,8,2]{3,2,1,0}, pred[64,8,8,2]{3,2,1,0}) "
        "fusion(%a, %b), kind=kLoop, calls=%fused_computation.2, metadata={op_name="
        '"jit(train_steps)/jvp(model)/bits/cond/branch_0_fun/reduce"}',
        "%dot.3 = f32[64,128]{1,0} dot(%convert_fusion.1, %convert_fusion), metadata="
        '{op_name="jit(train_steps)/jvp(model)/bits/cond/dot_general"}',
    ),
    where.CONV_FORWARD: (
        "%conv_general_dilated.18 = f32[64,32,32,32]{3,2,1,0} convolution("
        "%select_select_fusion.24, %select_select_fusion.23), window={size=3x3 "
        "pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="
        '"jit(train_steps)/jvp(model)/conv_general_dilated" stack_frame_id=451}',
    ),
    where.CONV_INPUTS: (
        "%convolution.4 = f32[64,32,32,32]{3,2,1,0} convolution(%pad_add_fusion, "
        "%transpose_copy_fusion.12), window={size=3x3 pad=1_1x1_1}, "
        "dim_labels=b01f_01io->b01f, metadata={op_name="
        '"jit(train_steps)/transpose(jvp(model))/conv_general_dilated"}',
        "%convolution-base-dilated = f32[64,16,16,40]{3,2,1,0} convolution(%a, %b), "
        "window={size=1x1 pad=0_1x0_1 lhs_dilate=2x2}, dim_labels=b01f_01io->b01f, "
        'metadata={op_name="jit(train_steps)/transpose(jvp(model))/'
        'conv_general_dilated"}',
        "%ffi_call.11 = f32[64,8,8,128]{3,2,1,0} custom-call(%a, %b), "
        'custom_call_target="sgdat_jax_input_gradient", metadata={op_name="jit('
        'train_steps)/transpose(jvp(model))/cond/branch_0_fun/lookups/ffi_call"}',
    ),
    where.CONV_KERNELS: (
        "%ffi_call.10 = f32[3,3,128,128]{3,2,1,0} custom-call(%a, %b), "
        'custom_call_target="sgdat_jax_kernel_gradient", metadata={op_name="jit('
        'train_steps)/transpose(jvp(model))/cond/branch_0_fun/lookups/ffi_call"}',
        "%convolution.6 = f32[32,3,3,32]{3,2,1,0} convolution(%transpose_copy_fusion.9"
        ", %transpose_copy_fusion.8), window={size=32x32 pad=1_1x1_1}, "
        "dim_labels=b01f_01io->b01f",
        "%convolution.5 = f32[3,3,3,32]{3,2,1,0} convolution(%a, %b), window="
        "{size=32x32 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="
        '"jit(train_steps)/transpose(jvp(model))/conv_general_dilated"}',
        "%conv = f32[3,3,32,32]{3,2,1,0} convolution(%a, %b), window={size=32x32 "
        "pad=1_1x1_1}, dim_labels=f01b_i01o->01bf, metadata={op_name="
        '"jit(train_steps)/transpose(jvp(model))/conv_general_dilated"}',
    ),
    where.DENSE: (
        "%dot.1 = f32[256,256]{1,0} dot(%select_select_fusion.13, "
        "%multiply_add_fusion.4), lhs_contracting_dims={0}, rhs_contracting_dims={0}, "
        'metadata={op_name="jit(train_steps)/transpose(jvp(model))/transpose"}',
    ),
    where.FORWARD: (
        "%broadcast_add_fusion.9 = f32[64,32,32,32]{3,2,1,0} fusion("
        "%conv_general_dilated.17, %bias), kind=kLoop, calls=%fused_computation.305, "
        'metadata={op_name="jit(train_steps)/jvp(model)/add" stack_frame_id=210}',
    ),
    where.BACKWARD: (
        "%subtract_multiply_fusion.4 = f32[64,8,8,128]{3,2,1,0} fusion("
        "%select_multiply_fusion.4, %conv_general_dilated.21), kind=kLoop, calls="
        '%fused_computation.226, metadata={op_name="jit(train_steps)/'
        'transpose(jvp(model))/mul" stack_frame_id=151}',
    ),
    where.AUGMENTATION: (
        "%concatenate_gather_fusion = u8[64,1,32,32,3]{4,3,2,1,0} fusion("
        "%get-tuple-element.95, /*index=5*/%indices.1), kind=kLoop, calls=%f.307, "
        'metadata={op_name="jit(train_steps)/augmentation/vmap()/gather"}',
    ),
    where.BINARY_OPTIMIZER: (
        "%add.5 = s16[256]{0} add(%a, %b), metadata={op_name="
        '"jit(train_steps)/optimizer/binary_optimizer/add"}',
    ),
    where.REAL_OPTIMIZER: (
        "%convert_power_fusion = f32[] fusion(%copy.278), kind=kLoop, calls=%f.136, "
        'metadata={op_name="jit(train_steps)/optimizer/real_optimizer/pow"}',
    ),
    where.METRICS: (
        "%multiply_abs_fusion.2 = f32[3,3,128,128]{3,2,1,0} fusion(%copy.223, "
        "%convolution.10), kind=kLoop, calls=%fused_computation.171, metadata="
        '{op_name="jit(train_steps)/metrics/abs" stack_frame_id=766}',
        "%topk = s32[64,5]{1,0} get-tuple-element(%custom-call), index=1, metadata="
        '{op_name="jit(train_steps)/jvp(metrics)/top_k"}',
        "%s = f32[] select(%a, %b, %c), metadata={op_name="
        '"jit(train_steps)/skip/jit(_where)/select_n"}',
    ),
    where.COPIES: (
        "%copy.224 = f32[2048,256]{1,0} copy(%state_params__dense7____kernel___value)",
    ),
    None: (
        "%gather = s32[64]{0} gather(%labels, %indices), offset_dims={}, metadata="
        '{op_name="jit(train_steps)/gather"}',
        "%transpose_copy_fusion.9 = f32[32,32,32,64]{3,2,1,0} fusion("
        "%select_select_fusion.24), kind=kLoop, calls=%fused_computation.190",
    ),
}

PROGRAM = """\
HloModule jit_train_steps, is_scheduled=true

%updated (p: f32[3,3,32,32], ok: pred[]) -> f32[3,3,32,32] {
  %p = f32[3,3,32,32]{3,2,1,0} parameter(0)
  %ok = pred[] parameter(1)
  %mul = f32[3,3,32,32]{3,2,1,0} multiply(%p, %p), \
metadata={op_name="jit(train_steps)/optimizer/binary_optimizer/mul"}
  %add = f32[3,3,32,32]{3,2,1,0} add(%mul, %p), \
metadata={op_name="jit(train_steps)/optimizer/binary_optimizer/add"}
  %sum = f32[3,3,32,32]{3,2,1,0} add(%add, %p), \
metadata={op_name="jit(train_steps)/optimizer/add"}
  ROOT %select = f32[3,3,32,32]{3,2,1,0} select(%ok, %sum, %p), \
metadata={op_name="jit(train_steps)/skip/jit(_where)/select_n"}
}

%transposed (x: f32[64,32,32,32]) -> f32[32,32,32,64] {
  %x = f32[64,32,32,32]{3,2,1,0} parameter(0)
  ROOT %transpose = f32[32,32,32,64]{3,2,1,0} transpose(%x), dimensions={3,1,2,0}
}

ENTRY %main (a: f32[64,32,32,32], g: f32[32,32,32,64], ok: pred[]) \
-> (f32[3,3,32,32], f32[64]) {
  %a = f32[64,32,32,32]{3,2,1,0} parameter(0), metadata={op_name="images"}
  %g = f32[32,32,32,64]{3,2,1,0} parameter(1)
  %ok.1 = pred[] parameter(2)
  %turned = f32[32,32,32,64]{3,2,1,0} fusion(%a), kind=kLoop, calls=%transposed
  %bitcast.7 = f32[32,32,32,64]{3,2,1,0} bitcast(%turned)
  %convolution.6 = f32[32,3,3,32]{3,2,1,0} convolution(%bitcast.7, %g), \
window={size=32x32 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %select_fusion = f32[3,3,32,32]{3,2,1,0} fusion(%convolution.6, %ok.1), \
kind=kLoop, calls=%updated, \
metadata={op_name="jit(train_steps)/skip/jit(_where)/select_n"}
  ROOT %tuple.1 = (f32[3,3,32,32]{3,2,1,0}, f32[64]{0}) tuple(%select_fusion, %g)
}
"""


@pytest.mark.parametrize(
    ("category", "line"), [(key, line) for key in LINES for line in LINES[key]]
)
def test_each_instruction_has_its_category(category, line):
    (instruction,) = where.parse(f"ENTRY %main () -> f32[] {{\n  {line}\n}}").values()
    assert instruction.line == line
    assert where.category_of(instruction.op_name, line) == category


def test_fusions_and_what_xla_adds_have_the_category_of_what_they_serve():
    found = where.categories(where.parse(PROGRAM))
    assert found["select_fusion"] == where.BINARY_OPTIMIZER
    assert found["convolution.6"] == where.CONV_KERNELS
    assert found["turned"] == where.CONV_KERNELS


def test_reading_a_renamed_result_is_reading_it():
    readers = where.readers_of(where.parse(PROGRAM))
    assert readers["turned"] == ["convolution.6"]
    assert readers["convolution.6"] == ["select_fusion"]


def test_instants_are_shared_equally():
    events = [
        where.Event("conv", 10, 50),
        where.Event("add", 20, 30),
        where.Event("mul", 25, 35),
        where.Event("conv", 70, 80),
        where.Event("before", -5, 2),
        where.Event("outside", 200, 300),
    ]
    assert where.share_out(events, 0, 100) == pytest.approx(
        {
            "before": 2,
            None: 8 + 20 + 20,
            "conv": 10 + 5 / 2 + 5 / 3 + 5 / 2 + 15 + 10,
            "add": 5 / 2 + 5 / 3,
            "mul": 5 / 3 + 5 / 2,
        }
    )
    assert where.share_out([], 0, 3) == {None: 3}


def test_operations_last_until_their_end_is_heard_or_their_result_read():
    readers = {"conv": ["add"], "other": ["add"], "add": []}
    operations = [
        (where.Event("conv", 0, 1), 90),
        (where.Event("other", 1, 2), 40),
        (where.Event("add", 60, 70), 69.9),
        (where.Event("add", 95, 96), None),
    ]
    ends = [event.end for event in where.until_read(operations, readers)]
    assert ends == [60, 40, 70, 96]


def test_the_training_program_has_all_scopes():
    settings = configs.TrainConfig(model="DigitsNet", batch_size=8)
    arguments = train_step.program_arguments(settings, sources.digits())
    text = loop.programs().train_steps.lower(*arguments).as_text(debug_info=True)
    names = re.findall(r'loc\("(.*?)"', text)
    parts = {part for name in names for part in re.findall(r"\w+", name)}
    assert parts >= {scope for scope, _ in where.SCOPES}


@pytest.fixture
def keys_of_cached_programs():
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)


@pytest.mark.slow
@pytest.mark.usefixtures("keys_of_cached_programs")
def test_parts_of_a_step_add_up_to_it(tmp_path, capsys):
    words = ["--models", "DigitsNet", "--batch", "32", "--rounds", "3"]
    where.main([*words, "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    (row,) = json.loads(file.read_text())["rows"]
    parts = row["categories"]
    assert tuple(parts) == where.CATEGORIES
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(p["seconds"] for p in parts.values()) == pytest.approx(row["seconds"])
    for name in (where.CONV_FORWARD, where.CONV_INPUTS, where.CONV_KERNELS):
        assert parts[name]["share"] > 0.01
    assert parts[where.GAPS]["share"] < 0.9
    assert where.CONV_KERNELS in capsys.readouterr().out
