// (softmax(x) - onehot(target))·g of each row, 0 where ignored.
//
// Twin of src/device/cpu/cross_entropy.rs. One invocation computes one element.

struct Params {
    count: u32,
    width: u32,
    logits_offset: u32,
    log_sum_offset: u32,
    g_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read> targets: array<u32>;
@group(0) @binding(5) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let row = i / params.width;
    let hit = targets[row];
    var slope = 0.0;
    if (hit != IGNORED) {
        let share = exp_of(logits[params.logits_offset + i] - log_sums[params.log_sum_offset + row]);
        slope = g[params.g_offset + row] * (share - select(0.0, 1.0, i % params.width == hit));
    }
    x[i] = slope;
}
