// As rows.wgsl, with a row for each invocation: no workgroup memory, and nobody waits.
//
// For rows so short that most of a workgroup would have nothing to do.

const ROW_GROUP = 64u;
const ROW_STEP = 1u;

struct Group {
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
}

struct Place {
    @builtin(local_invocation_index) lane: u32,
}

fn row_of(group: Group, here: Place) -> u32 {
    return flat_group(group.id, group.groups) * ROW_GROUP + here.lane;
}

fn first_of(here: Place) -> u32 {
    return 0u;
}

fn row_sum(part: f32, here: Place) -> f32 {
    return part;
}

fn row_max(part: f32, here: Place) -> f32 {
    return part;
}
