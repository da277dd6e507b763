// Rows that a workgroup shares: which row, which of its elements, and sums and maxima over it.
//
// Each invocation first folds the elements it visits, then the workgroup folds those in a tree of
// six levels. Every invocation must call these functions, and gets the same result.
// Two files with the same names may take the place of this one: rows_subgroup.wgsl where an adapter has
// subgroup operations, rows_alone.wgsl where rows are short.

const ROW_GROUP = 64u;
// An invocation visits every so many-th element, from its own on.
const ROW_STEP = ROW_GROUP;

// Which workgroup it is: the same for all of its invocations.
struct Group {
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
}

// Which of them an invocation is.
struct Place {
    @builtin(local_invocation_index) lane: u32,
}

fn row_of(group: Group, here: Place) -> u32 {
    return flat_group(group.id, group.groups);
}

fn first_of(here: Place) -> u32 {
    return here.lane;
}

var<workgroup> shared_values: array<f32, ROW_GROUP>;

fn row_sum(part: f32, here: Place) -> f32 {
    let lane = here.lane;
    shared_values[lane] = part;
    workgroupBarrier();
    for (var half = ROW_GROUP / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            shared_values[lane] += shared_values[lane + half];
        }
        workgroupBarrier();
    }
    let sum = shared_values[0];
    workgroupBarrier();
    return sum;
}

fn row_max(part: f32, here: Place) -> f32 {
    let lane = here.lane;
    shared_values[lane] = part;
    workgroupBarrier();
    for (var half = ROW_GROUP / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            shared_values[lane] = maximum(shared_values[lane], shared_values[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = shared_values[0];
    workgroupBarrier();
    return largest;
}
