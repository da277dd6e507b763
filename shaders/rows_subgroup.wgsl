// As rows.wgsl, with subgroup operations: the invocations that run in lockstep fold their parts
// without memory, and only one value per subgroup meets in workgroup memory.
//
// Nothing is assumed about the size of a subgroup: there are between 1 and 64 in a workgroup. The
// language wants `enable subgroups;` before all else, which naga 30 does not know yet.

const ROW_GROUP = 64u;
const ROW_STEP = ROW_GROUP;

// Which workgroup it is: the same for all of its invocations.
struct Group {
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
}

// Which of them an invocation is.
struct Place {
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
}

fn row_of(group: Group, here: Place) -> u32 {
    return flat_group(group.id, group.groups);
}

fn first_of(here: Place) -> u32 {
    return here.lane;
}

// One value of each subgroup.
var<workgroup> shared_values: array<f32, ROW_GROUP>;

fn row_sum(part: f32, here: Place) -> f32 {
    let of_subgroup = subgroupAdd(part);
    if (here.subgroup_lane == 0u) {
        shared_values[here.subgroup] = of_subgroup;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < here.subgroups; i++) {
        sum += shared_values[i];
    }
    workgroupBarrier();
    return sum;
}

// The larger of NaN and a number is not defined for a subgroup, so NaN goes along as a vote.
fn row_max(part: f32, here: Place) -> f32 {
    let largest_number = subgroupMax(select(part, LOWEST, is_nan(part)));
    let of_subgroup = select(largest_number, not_a_number(), subgroupAny(is_nan(part)));
    if (here.subgroup_lane == 0u) {
        shared_values[here.subgroup] = of_subgroup;
    }
    workgroupBarrier();
    var largest = from_bits(0xff800000u);
    for (var i = 0u; i < here.subgroups; i++) {
        largest = maximum(largest, shared_values[i]);
    }
    workgroupBarrier();
    return largest;
}
