// Attention without a stored matrix of scores (arXiv 2205.14135, algorithm 1): the values weighted by
// softmax(scale·q·kᵀ + bias), and of each query its largest score and sum of exponentials.
//
// Twin of src/device/cpu/attention.rs. A workgroup computes 32 queries (and 64 columns) of one matrix.
// It walks along the keys with the softmax of those it has met; when a larger score turns up, what was
// summed so far is scaled down. Keys after the last query's own are passed over, unless there is a bias,
// which may hide all others from a query.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> seen: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;

fn value_at(operand: u32, at: u32) -> f32 {
    switch (operand) {
        case Q: { return q[at]; }
        case K: { return k[at]; }
        case V: { return v[at]; }
        default: { return bias[at]; }
    }
}

fn largest_of_four(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let queries = params.operands[Q].rows;
    let keys = params.operands[K].rows;
    let width = params.operands[V].columns;
    let tile = tile_of(flat_group(group, groups), queries, width);
    if (tile.matrix >= params.batch) { return; }
    let own = lane / SIDE;
    let other = lane % SIDE;
    let row = vec4(tile.row + 4u * own) + FOUR;

    var largest = vec4(LOWEST);
    var sum = vec4(0.0);
    var totals: array<mat4x4<f32>, BLOCKS>;
    let end = select(min(keys, params.past + tile.row + TILE), keys, params.has_bias != 0u);
    for (var start = 0u; start < end; start += TILE) {
        let key = vec4(start + 4u * other) + FOUR;
        let exists = key < vec4(keys);
        var own_scores = block(Q, K, tile.matrix, tile.row, start, lane);
        var before = largest;
        for (var i = 0u; i < 4u; i++) {
            let of_row = scores(own_scores[i], tile.matrix, vec4(row[i]), key);
            own_scores[i] = select(vec4(LOWEST), of_row, exists);
            largest[i] = max(largest[i], largest_of_four(own_scores[i]));
        }
        partial[other][own] = largest;
        workgroupBarrier();
        for (var i = 0u; i < SIDE; i++) {
            largest = max(largest, partial[i][own]);
        }
        workgroupBarrier();
        var sums_of_rows = vec4(0.0);
        for (var i = 0u; i < 4u; i++) {
            let weight = exp_where(exists, own_scores[i] - vec4(largest[i]));
            sums_of_rows[i] = sum_of_four(weight);
            own_scores[i] = weight * stays(tile.matrix, vec4(row[i]), key);
        }
        partial[other][own] = sums_of_rows;
        share(own_scores, lane);
        let shrunk = exp_where(vec4(true), before - largest);
        sum *= shrunk;
        for (var i = 0u; i < SIDE; i++) {
            sum += partial[i][own];
        }
        for (var n = 0u; n < BLOCKS; n++) {
            var total = totals[n];
            for (var i = 0u; i < 4u; i++) {
                total[i] *= shrunk[i];
            }
            totals[n] = weighted(total, V, tile.matrix, start, tile.column + n * TILE, lane);
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if (row[i] >= queries) { break; }
        let number_of_query = tile.matrix * queries + row[i];
        for (var n = 0u; n < BLOCKS; n++) {
            let total = totals[n][i] * (params.kept / sum[i]);
            for (var j = 0u; j < 4u; j++) {
                let place = tile.column + n * TILE + 4u * other + j;
                if (place < width) {
                    seen[params.first_offset + number_of_query * width + place] = total[j];
                }
            }
        }
        if (tile.column + other == 0u) {
            sums[params.second_offset + number_of_query * 2u] = largest[i];
            sums[params.second_offset + number_of_query * 2u + 1u] = sum[i];
        }
    }
}
