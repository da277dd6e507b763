// The gradients of attention by queries, keys and values, from scores computed once more (arXiv
// 2205.14135, algorithm 4).
//
// Twin of src/device/cpu/attention.rs. With weights p and their gradient dp, that of the scores is
// p·(dp - sum(p·dp)). A workgroup of `by_queries` computes 32 queries (and 64 columns) of one matrix: it
// walks along the keys once for that sum, which it leaves beside the other two numbers of each query, and
// once for the gradient. Then a workgroup of `by_keys` computes 32 keys and their values.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> g: array<f32>;
@group(0) @binding(6) var<storage, read> sums: array<f32>;
@group(0) @binding(7) var<storage, read_write> first_result: array<f32>;
@group(0) @binding(8) var<storage, read_write> second_result: array<f32>;

fn value_at(operand: u32, at: u32) -> f32 {
    switch (operand) {
        case Q: { return q[at]; }
        case K: { return k[at]; }
        case V: { return v[at]; }
        case BIAS: { return bias[at]; }
        default: { return g[at]; }
    }
}

// One of the numbers kept for each of four queries; 1 where there is no query.
fn kept_for(matrix: u32, query: vec4<u32>, which: u32) -> vec4<f32> {
    let queries = params.operands[Q].rows;
    var found = vec4(1.0);
    for (var i = 0u; i < 4u; i++) {
        if (query[i] < queries) {
            found[i] = sums[params.sums_offset + (matrix * queries + query[i]) * params.sums_width + which];
        }
    }
    return found;
}

@compute @workgroup_size(SIDE, SIDE)
fn by_queries(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let queries = params.operands[Q].rows;
    let keys = params.operands[K].rows;
    let width = params.operands[Q].columns;
    let tile = tile_of(flat_group(group, groups), queries, width);
    if (tile.matrix >= params.batch) { return; }
    let own = lane / SIDE;
    let other = lane % SIDE;
    let row = vec4(tile.row + 4u * own) + FOUR;
    let largest = kept_for(tile.matrix, row, 0u);
    let sum = kept_for(tile.matrix, row, 1u);

    var dots = vec4(0.0);
    var totals: array<mat4x4<f32>, BLOCKS>;
    let end = select(min(keys, params.past + tile.row + TILE), keys, params.has_bias != 0u);
    for (var sweep = 0u; sweep < 2u; sweep++) {
        for (var start = 0u; start < end; start += TILE) {
            let key = vec4(start + 4u * other) + FOUR;
            let raw = block(Q, K, tile.matrix, tile.row, start, lane);
            var pulled = block(G, V, tile.matrix, tile.row, start, lane);
            for (var i = 0u; i < 4u; i++) {
                let score = scores(raw[i], tile.matrix, vec4(row[i]), key);
                let weight = exp_where(key < vec4(keys), score - vec4(largest[i])) / sum[i];
                let dp = params.kept * stays(tile.matrix, vec4(row[i]), key) * pulled[i];
                if (sweep == 0u) {
                    dots[i] += dot(weight, dp);
                }
                pulled[i] = weight * (dp - vec4(dots[i]));
            }
            if (sweep == 1u) {
                share(pulled, lane);
                for (var n = 0u; n < BLOCKS; n++) {
                    totals[n] = weighted(totals[n], K, tile.matrix, start, tile.column + n * TILE, lane);
                }
            }
        }
        if (sweep == 0u) {
            partial[other][own] = dots;
            workgroupBarrier();
            dots = vec4(0.0);
            for (var i = 0u; i < SIDE; i++) {
                dots += partial[i][own];
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if (row[i] >= queries) { break; }
        let number_of_query = tile.matrix * queries + row[i];
        for (var n = 0u; n < BLOCKS; n++) {
            write(params.first_offset + number_of_query * width, tile.column + n * TILE + 4u * other, totals[n][i]);
        }
        if (tile.column + other == 0u) {
            let place = params.second_offset + number_of_query * 3u;
            second_result[place] = largest[i];
            second_result[place + 1u] = sum[i];
            second_result[place + 2u] = dots[i];
        }
    }
}

// Four elements of a row of queries' or keys' gradient.
fn write(start: u32, column: u32, values: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if (is_wanted(FIRST) && column + j < params.operands[Q].columns) {
            first_result[start + column + j] = params.scale * values[j];
        }
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn by_keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let queries = params.operands[Q].rows;
    let keys = params.operands[K].rows;
    let width = params.operands[K].columns;
    let out = params.operands[V].columns;
    let tile = tile_of(flat_group(group, groups), keys, max(width, out));
    if (tile.matrix >= params.batch) { return; }
    let own = lane / SIDE;
    let other = lane % SIDE;
    let row = vec4(tile.row + 4u * own) + FOUR;

    var of_keys: array<mat4x4<f32>, BLOCKS>;
    var of_values: array<mat4x4<f32>, BLOCKS>;
    // No query before this one sees these keys.
    let from_query = select(max(tile.row, params.past) - params.past, 0u, params.has_bias != 0u);
    for (var start = from_query / TILE * TILE; start < queries; start += TILE) {
        let query = vec4(start + 4u * other) + FOUR;
        let largest = kept_for(tile.matrix, query, 0u);
        let sum = kept_for(tile.matrix, query, 1u);
        let dots = kept_for(tile.matrix, query, 2u);
        var weight = block(K, Q, tile.matrix, tile.row, start, lane);
        var dropped: mat4x4<f32>;
        for (var i = 0u; i < 4u; i++) {
            let score = scores(weight[i], tile.matrix, query, vec4(row[i]));
            weight[i] = exp_where(query < vec4(queries), score - largest) / sum;
            dropped[i] = params.kept * stays(tile.matrix, query, vec4(row[i]));
        }
        if (is_wanted(SECOND)) {
            share(mat4x4(
                weight[0] * dropped[0], weight[1] * dropped[1], weight[2] * dropped[2], weight[3] * dropped[3],
            ), lane);
            for (var n = 0u; n < BLOCKS; n++) {
                of_values[n] = weighted(of_values[n], G, tile.matrix, start, tile.column + n * TILE, lane);
            }
        }
        if (is_wanted(FIRST)) {
            var pulled = block(V, G, tile.matrix, tile.row, start, lane);
            for (var i = 0u; i < 4u; i++) {
                pulled[i] = weight[i] * (dropped[i] * pulled[i] - dots);
            }
            share(pulled, lane);
            for (var n = 0u; n < BLOCKS; n++) {
                of_keys[n] = weighted(of_keys[n], Q, tile.matrix, start, tile.column + n * TILE, lane);
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if (row[i] >= keys) { break; }
        let number_of_key = tile.matrix * keys + row[i];
        for (var n = 0u; n < BLOCKS; n++) {
            let place = tile.column + n * TILE + 4u * other;
            write(params.first_offset + number_of_key * width, place, of_keys[n][i]);
            for (var j = 0u; j < 4u; j++) {
                if (is_wanted(SECOND) && place + j < out) {
                    second_result[params.second_offset + number_of_key * out + place + j] = of_values[n][i][j];
                }
            }
        }
    }
}
