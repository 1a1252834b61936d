// Energy and input gradient of a plain convolution stack, and whole Langevin paths, on the CPU.
//
// One SIMD lane is one chain. Sixteen chains form a block (eight in a second build of this file, EBM_LANES=8, for
// what is left over), and one thread carries up to three blocks from the image to the gradient and, for a path,
// through all of its steps. Every number of a block lies as
//     [row][column][channel][16 chains]  float32,
// so a convolution is "one weight, broadcast, times a vector of chains", and no lane ever meets another one:
// a chain's result does not depend on its lane, its block, the size of the batch or the thread. Several blocks are
// to the arithmetic just more pixels; deep layers have few pixels and many weights, which are then read once.
//
// Convolution, direct form. Activations keep a border of zeros, so no kernel has edge cases, and one row of a
// filter (columns x channels) is one contiguous run of vectors. `tile<P, O>` accumulates P output pixels x O
// output channels in registers. The gradient of a convolution with stride s splits into s*s phases of input
// pixels, each a stride-1 convolution of the output gradient: other tables, the same `tile`.
//
// Convolution, Winograd form, for 4x4 filters with stride 2. The four polyphase parts of the padded input turn
// it into a 2x2 convolution with 4*C_in channels; each phase of its gradient is a 2x2 convolution already.
// F(m x m, 2x2) needs (m+1)^2 products for m*m outputs instead of 4*m*m: 1.8, 2.25, 2.6 times fewer for m = 2, 3, 4.
// The products are again a `tile` job, the transforms additions of vectors. `tile_size` chooses m, or the direct
// form, by shape.
//
// Backward overwrites: once the layers above are done, an activation is only needed for its sign (LeakyReLU's
// mask), so the gradient replaces it in the same place. The image itself keeps its place; its gradient has its own.
//
// Noise is Philox-4x32-10 (Salmon et al. 2011), counter = (group of four elements, step, chain), turned to normals by
// Box-Muller, sixteen chains at a time, with polynomials only.
//
// Limits: float32; leak >= 0 (the mask is the output's sign); no dilation, groups, or weight gradients.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define UNROLL _Pragma("GCC unroll 8")

namespace {

#ifndef EBM_LANES
#define EBM_LANES 16
#define EBM_BLOCKS 3
#endif
constexpr int LANES = EBM_LANES, BLOCKS = EBM_BLOCKS;  // chains of a block; blocks that go together, at most
#if defined(__AVX512F__) && defined(__AVX512VL__)
constexpr int WIDTH = LANES, ACCUMULATORS = 24;  // 32 registers of 16 or 8 floats
#elif defined(__AVX__)
constexpr int WIDTH = 8, ACCUMULATORS = 12;  // 16 registers of 8: a block is two halves
#elif defined(__aarch64__)
constexpr int WIDTH = 4, ACCUMULATORS = 24;  // 32 registers of 4
#else
constexpr int WIDTH = 4, ACCUMULATORS = 12;
#endif
constexpr int CHANNELS_AT_ONCE = ACCUMULATORS / 3;  // output channels in the main tile, with 3 pixels each

typedef float vec __attribute__((vector_size(WIDTH * 4)));
typedef float lanes_f __attribute__((vector_size(LANES * 4)));
typedef int32_t lanes_i __attribute__((vector_size(LANES * 4)));
typedef uint32_t lanes_u __attribute__((vector_size(LANES * 4)));

inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }

// The same number in all lanes. Not `vec{} + a`: an addition and a shuffle for each weight cost as much as two products.
inline vec all(float a) {
#if defined(__AVX512F__) && defined(__AVX512VL__) && EBM_LANES == 16
    return (vec)_mm512_set1_ps(a);
#elif defined(__AVX__)
    return (vec)_mm256_set1_ps(a);
#elif defined(__aarch64__)
    return (vec)vdupq_n_f32(a);
#else
    return vec{a, a, a, a};
#endif
}

// a * b + c, in one rounding where the CPU can. Written out, and the compiler forbidden to contract anything else: where
// it did so depended on the number of lanes.
inline vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__) && defined(__AVX512VL__) && EBM_LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
inline vec multiply_add(float a, vec b, vec c) { return multiply_add(all(a), b, c); }

// ---------------------------------------------------------------------------------------------------------------
// The register-blocked product that every convolution comes down to.

enum Epilogue { PLAIN, FORWARD, BACKWARD };  // store; LeakyReLU, store; times the mask of what lies there, store

struct Group { int64_t first, width, weights; };  // output channels done together, and where their weights start

struct Pass {
    int64_t channels = 0, rows = 0, run = 0, row_stride = 0;  // outputs; filter rows; vectors a row; floats to the next
    int64_t pixels = 0;  // of one block
    Epilogue epilogue = PLAIN;
    float leak = 1;
    std::vector<int64_t> source, target;  // per output pixel of the first block, then of the others, in floats
    std::vector<Group> groups;
    std::vector<float> weights, bias;  // [group][row][run][width]; [channels] or empty

    void layout() {
        groups.clear();
        int64_t at = 0;
        for (int64_t c = 0; c < channels;) {
            int64_t left = channels - c, width = left >= CHANNELS_AT_ONCE ? CHANNELS_AT_ONCE : left >= 4 ? 4 : left;
            groups.push_back({c, width, at});
            at += rows * run * width;
            c += width;
        }
        weights.assign(at, 0.f);
    }
    void set(int64_t channel, int64_t row, int64_t position, float value) {
        const Group *g = &groups[channel / CHANNELS_AT_ONCE];  // right, or the first of the narrow ones at the end
        while (channel >= g->first + g->width) g++;
        weights[g->weights + (row * run + position) * g->width + channel - g->first] = value;
    }
};

inline void finish(Epilogue epilogue, float leak, float *y, vec v) {
    if (epilogue == FORWARD) v = v > 0.f ? v : v * leak;
    if (epilogue == BACKWARD) v = load(y) > 0.f ? v : v * leak;
    store(y, v);
}

template <int P, int O>
void tile(const Pass &pass, const Group &group, int64_t pixel, const float *in, float *out) {
    for (int part = 0; part < LANES; part += WIDTH) {
        vec acc[P][O];
        UNROLL for (int o = 0; o < O; o++) {
            const vec start = all(pass.bias.empty() ? 0.f : pass.bias[group.first + o]);
            UNROLL for (int p = 0; p < P; p++) acc[p][o] = start;
        }
        const float *w = pass.weights.data() + group.weights;
        for (int64_t row = 0; row < pass.rows; row++) {
            const float *x[P];
            UNROLL for (int p = 0; p < P; p++) x[p] = in + pass.source[pixel + p] + row * pass.row_stride + part;
            for (int64_t k = 0; k < pass.run; k++, w += O) {
                vec value[P];
                UNROLL for (int p = 0; p < P; p++) value[p] = load(x[p] + k * LANES);
                UNROLL for (int o = 0; o < O; o++) {
                    const vec weight = all(w[o]);
                    UNROLL for (int p = 0; p < P; p++) acc[p][o] = multiply_add(value[p], weight, acc[p][o]);
                }
            }
        }
        UNROLL for (int p = 0; p < P; p++) {
            float *y = out + pass.target[pixel + p] + group.first * LANES + part;
            UNROLL for (int o = 0; o < O; o++, y += LANES) finish(pass.epilogue, pass.leak, y, acc[p][o]);
        }
    }
}

template <int O>
void pixels(const Pass &pass, const Group &group, int64_t first, int64_t last, const float *in, float *out) {
    constexpr int P = ACCUMULATORS / O > 8 ? 8 : ACCUMULATORS / O;
    int64_t p = first;
    for (; p + P <= last; p += P) tile<P, O>(pass, group, p, in, out);
    for (; p + 2 <= last; p += 2) tile<2, O>(pass, group, p, in, out);
    for (; p < last; p++) tile<1, O>(pass, group, p, in, out);
}

void run_group(const Pass &pass, const Group &group, int64_t first, int64_t last, const float *in, float *out) {
    switch (group.width) {
    case 8: return pixels<8>(pass, group, first, last, in, out);
    case 4: return pixels<4>(pass, group, first, last, in, out);
    case 3: return pixels<3>(pass, group, first, last, in, out);
    case 2: return pixels<2>(pass, group, first, last, in, out);
    default: return pixels<1>(pass, group, first, last, in, out);
    }
}

// What is larger, the weights or the pixels, is read once; the other stays in the cache. The order of the tiles
// does not touch the results.
void run(const Pass &pass, int64_t blocks, const float *in, float *out) {
    const int64_t count = blocks * pass.pixels, step = 24;  // a multiple of every P
    if ((int64_t)pass.weights.size() > 65536)
        for (const Group &g : pass.groups) run_group(pass, g, 0, count, in, out);
    else
        for (int64_t p = 0; p < count; p += step)
            for (const Group &g : pass.groups) run_group(pass, g, p, p + step < count ? p + step : count, in, out);
}

// ---------------------------------------------------------------------------------------------------------------
// Winograd: an m x m tile of a 2x2 convolution from n*n products, n = m + 1 (points 0, 1, infinity; -1; 2).

template <int M> struct Transform;  // input: n values of a line to its n factors; output: n products to m values

template <> struct Transform<2> {
    static void input(const vec *d, vec *r) { r[0] = d[0] - d[1], r[1] = d[1], r[2] = d[2] - d[1]; }
    static void output(const vec *p, vec *y) { y[0] = p[0] + p[1], y[1] = p[1] + p[2]; }
};

template <> struct Transform<3> {
    static void input(const vec *d, vec *r) {
        r[0] = d[0] - d[2], r[1] = d[1] + d[2], r[2] = d[2] - d[1], r[3] = d[3] - d[1];
    }
    static void output(const vec *p, vec *y) {
        y[0] = p[0] + p[1] + p[2], y[1] = p[1] - p[2], y[2] = p[1] + p[2] + p[3];
    }
};

template <> struct Transform<4> {
    static void input(const vec *d, vec *r) {
        const vec a = d[3] - d[1], b = d[3] - d[2];
        r[0] = multiply_add(2.f, d[0] - d[2], a), r[1] = multiply_add(-2.f, d[1], b);
        r[2] = multiply_add(2.f, d[1] - d[2], b), r[3] = a, r[4] = multiply_add(-2.f, a, d[4] - d[2]);
    }
    static void output(const vec *p, vec *y) {
        const vec a = p[1] + p[2], b = p[1] - p[2];
        y[0] = p[0] + a + p[3], y[1] = multiply_add(2.f, p[3], b), y[2] = multiply_add(4.f, p[3], a);
        y[3] = multiply_add(8.f, p[3], b) + p[4];
    }
};

// The filter's factors: line i of a two-tap filter g is FILTER[m-2][i][0] g[0] + FILTER[m-2][i][1] g[1].
const double FILTER[3][5][2] = {{{1, 0}, {1, 1}, {0, 1}},
                                {{1, 0}, {1. / 2, 1. / 2}, {1. / 2, -1. / 2}, {0, 1}},
                                {{1. / 2, 0}, {-1. / 2, -1. / 2}, {-1. / 6, 1. / 6}, {1. / 6, 2. / 6}, {0, 1}}};

struct Tile { int64_t source, target, rows, columns; };  // first input and output; outputs that exist

struct Winograd {
    int64_t m = 0, at_once = 0;  // m = 0: not used. at_once: tiles whose factors lie in the scratch together
    int64_t row = 0, column = 0, out_row = 0, out_column = 0;  // between a tile's values, in floats
    int64_t channels = 0, count = 0;  // of a part; tiles of one block
    std::vector<int64_t> parts;  // offsets of the polyphase parts, each of `channels` channels
    std::vector<Tile> tiles;  // of the first block, then of the others
    Pass products;  // pixels: the tiles in the scratch; weights [group][n*n][part, channel][width]
    int64_t pitch() const { return (at_once * products.run + 1) * LANES; }  // + 1: no two positions share a cache set
    int64_t product_pitch() const { return (at_once * CHANNELS_AT_ONCE + 1) * LANES; }
    int64_t scratch() const { return m ? (m + 1) * (m + 1) * (pitch() + product_pitch()) : 0; }
};

// The tile size for `rows` x `columns` outputs from K factors to O outputs, 0 for the direct form. Work is counted in
// vector operations, with measured weights for the transforms and for fetching the filter, and depends on nothing but
// the shape: a network is computed in the same way everywhere and always.
int64_t tile_size(int64_t rows, int64_t columns, int64_t K, int64_t O) {
    double best = 0.9 * rows * columns * 4 * K * O;
    int64_t chosen = 0;
    for (int64_t m = 2; m <= 4; m++) {
        const double tiles = ((rows + m - 1) / m) * ((columns + m - 1) / m), n2 = (m + 1) * (m + 1);
        const double weights = n2 * K * O, fetching = weights > 262144 ? 0.7 : 0.3;
        const double adding = m == 2 ? 6 : m == 3 ? 7 : 11;
        const double work = weights * (tiles + fetching) + tiles * n2 * adding * (K + O);
        if (work < best) best = work, chosen = m;
    }
    return chosen;
}

// The Winograd form of `direct`, whose pixels are a grid of `rows` x `columns` and whose filter has 2*step taps a side.
void plan(Winograd &win, const Pass &direct, int64_t rows, int64_t columns, int64_t step, int64_t channels) {
    const int64_t m = win.m = tile_size(rows, columns, step * step * channels, direct.channels), n2 = (m + 1) * (m + 1);
    if (!m) return;
    win.channels = channels;
    win.row = step * direct.row_stride, win.column = step * channels * LANES;
    win.out_row = rows > 1 ? direct.target[columns] - direct.target[0] : 0;
    win.out_column = columns > 1 ? direct.target[1] - direct.target[0] : 0;
    for (int64_t i = 0; i < step; i++)
        for (int64_t j = 0; j < step; j++) win.parts.push_back(i * direct.row_stride + j * channels * LANES);
    for (int64_t i = 0; i < rows; i += m)
        for (int64_t j = 0; j < columns; j += m)
            win.tiles.push_back({direct.source[i * columns + j], direct.target[i * columns + j],
                                 rows - i < m ? rows - i : m, columns - j < m ? columns - j : m});
    Pass &p = win.products;
    p.channels = direct.channels, p.rows = n2, p.run = step * step * channels;
    p.layout();
    p.rows = 1;  // run for one position at a time
    win.count = (int64_t)win.tiles.size();
    win.at_once = BLOCKS * win.count;
    const int64_t fit = 1000000 / (n2 * p.run * LANES * 4);  // 1 MB of factors and the filter share a cache of 2 MB
    if (win.at_once > fit) win.at_once = fit < 1 ? 1 : fit < 3 ? fit : fit / 3 * 3;
    for (int64_t t = 0; t < win.at_once; t++) {
        p.source.push_back(t * p.run * LANES);
        p.target.push_back(t * CHANNELS_AT_ONCE * LANES);
    }
}

// The factors of the filter that `direct` holds.
void transform(Winograd &win, const Pass &direct) {
    const auto *f = FILTER[win.m - 2];
    const int64_t n = win.m + 1, K = win.products.run, C = win.channels, step = win.parts.size() == 4 ? 2 : 1;
    for (const Group &g : win.products.groups)
        for (int64_t k = 0; k < K; k++)
            for (int64_t o = 0; o < g.width; o++) {
                double tap[2][2];
                const int64_t part = k / C, row = part / step, column = part % step, at = direct.run;
                const float *w = &direct.weights[direct.rows * at * g.first + o];  // groups follow one another
                for (int64_t i = 0; i < 2; i++)
                    for (int64_t j = 0; j < 2; j++)
                        tap[i][j] = w[((i * step + row) * at + (j * step + column) * C + k % C) * g.width];
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < n; j++)
                        win.products.weights[g.weights + ((i * n + j) * K + k) * g.width + o] =
                            (float)(f[i][0] * (f[j][0] * tap[0][0] + f[j][1] * tap[0][1]) +
                                    f[i][1] * (f[j][0] * tap[1][0] + f[j][1] * tap[1][1]));
            }
}

template <int M>
void run_winograd(const Pass &pass, const Winograd &win, int64_t blocks, const float *in, float *out, float *scratch) {
    constexpr int N = M + 1;
    const int64_t pitch = win.pitch(), product_pitch = win.product_pitch(), K = win.products.run;
    float *products = scratch + N * N * pitch;
    for (int64_t first = 0; first < blocks * win.count; first += win.at_once) {
        const int64_t left = blocks * win.count - first, count = left < win.at_once ? left : win.at_once;
        for (int64_t t = 0; t < count; t++)
            for (size_t part = 0; part < win.parts.size(); part++)
                for (int64_t c = 0; c < win.channels * LANES; c += WIDTH) {
                    const float *x = in + win.tiles[first + t].source + win.parts[part] + c;
                    float *v = scratch + (t * K + part * win.channels) * LANES + c;
                    vec line[N], half[N][N], back[N];
                    UNROLL for (int i = 0; i < N; i++) {
                        UNROLL for (int j = 0; j < N; j++) line[j] = load(x + i * win.row + j * win.column);
                        Transform<M>::input(line, half[i]);
                    }
                    UNROLL for (int j = 0; j < N; j++) {
                        UNROLL for (int i = 0; i < N; i++) line[i] = half[i][j];
                        Transform<M>::input(line, back);
                        UNROLL for (int i = 0; i < N; i++) store(v + (i * N + j) * pitch, back[i]);
                    }
                }
        for (const Group &group : win.products.groups) {
            for (int position = 0; position < N * N; position++) {
                const Group one = {0, group.width, group.weights + position * K * group.width};
                run_group(win.products, one, 0, count, scratch + position * pitch, products + position * product_pitch);
            }
            for (int64_t t = 0; t < count; t++)
                for (int64_t c = 0; c < group.width * LANES; c += WIDTH) {
                    const Tile &tile = win.tiles[first + t];
                    const float *p = products + t * CHANNELS_AT_ONCE * LANES + c;
                    vec line[N], half[N][M], back[M];
                    UNROLL for (int i = 0; i < N; i++) {
                        UNROLL for (int j = 0; j < N; j++) line[j] = load(p + (i * N + j) * product_pitch);
                        Transform<M>::output(line, half[i]);
                    }
                    const vec start = all(pass.bias.empty() ? 0.f : pass.bias[group.first + c / LANES]);
                    float *y = out + tile.target + group.first * LANES + c;
                    for (int64_t j = 0; j < tile.columns; j++) {
                        UNROLL for (int i = 0; i < N; i++) line[i] = half[i][j];
                        Transform<M>::output(line, back);
                        for (int64_t i = 0; i < tile.rows; i++)
                            finish(pass.epilogue, pass.leak, y + i * win.out_row + j * win.out_column, back[i] + start);
                    }
                }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The network.

struct Image {  // an activation in the workspace, with its border of zeros
    int64_t channels = 0, height = 0, width = 0, top = 0, left = 0, bottom = 0, right = 0, offset = 0;
    int64_t row() const { return ((left + width + right) * channels + 1) * LANES; }  // + 1: rows in other cache sets
    int64_t size() const { return (top + height + bottom) * row(); }
    int64_t at(int64_t y, int64_t x) const { return offset + (y + top) * row() + (x + left) * channels * LANES; }
    void reach(int64_t y, int64_t x) {  // make sure that (y, x) exists
        if (-y > top) top = -y;
        if (-x > left) left = -x;
        if (y - height + 1 > bottom) bottom = y - height + 1;
        if (x - width + 1 > right) right = x - width + 1;
    }
};

struct Axis {  // one direction of a convolution
    int64_t size, kernel, stride, padding, out, phases;
    // Input position i gets its gradient from outputs q, q-1, ..., q-taps+1, where i + padding = phases*q + phase.
    // With a single output any number of phases is right; as many as the filter is long leaves one tap to each.
    void finish() {
        out = (size + 2 * padding - kernel) / stride + 1;
        phases = out == 1 && kernel > stride ? kernel : stride;
    }
    int64_t taps(int64_t phase) const { return phase < kernel ? (kernel - phase + phases - 1) / phases : 0; }
    int64_t quotient(int64_t i) const { return (i + padding) / phases; }
    int64_t phase(int64_t i) const { return (i + padding) % phases; }
    int64_t first(int64_t a) const { return ((a - padding) % phases + phases) % phases; }
    int64_t count(int64_t a) const { return (size - first(a) + phases - 1) / phases; }  // pixels of a phase
};

struct Convolution {
    Pass direct;
    Winograd winograd;
};

struct Layer {
    int64_t in_channels, out_channels;
    Axis y, x;
    float leak;
    Convolution forward;
    std::vector<Convolution> backward;  // one a phase, [phase y][phase x]
    bool strided() const {  // the kind that has a Winograd form
        return y.kernel == 4 && x.kernel == 4 && y.stride == 2 && x.stride == 2 && y.phases == 2 && x.phases == 2;
    }
    int64_t forward_tile() const { return strided() ? tile_size(y.out, x.out, 4 * in_channels, out_channels) : 0; }
    int64_t backward_tile(int64_t a, int64_t b) const {
        return strided() ? tile_size(y.count(a), x.count(b), out_channels, in_channels) : 0;
    }
};

struct Net {
    std::vector<Layer> layers;
    std::vector<Image> images;  // images[l] is the input of layer l
    std::vector<int64_t> element, gradient;  // where the c*h*w elements of the image, and of its gradient, lie
    int64_t gradient_offset = 0, block = 0, scratch = 0;  // floats: of one block, and beside the blocks
    int64_t floats() const { return BLOCKS * block + scratch; }
};

void reach(Net &net, size_t l) {
    Layer &layer = net.layers[l];
    Image &in = net.images[l], &out = net.images[l + 1];
    const Axis &y = layer.y, &x = layer.x;
    in.reach(-y.padding, -x.padding);
    in.reach((y.out - 1) * y.stride - y.padding + y.kernel - 1, (x.out - 1) * x.stride - x.padding + x.kernel - 1);
    auto over = [](int64_t count, int64_t m) { return (count + m - 1) / m * m; };  // the last tiles stand out
    if (const int64_t m = layer.forward_tile())
        in.reach(2 * over(y.out, m) + 1 - y.padding, 2 * over(x.out, m) + 1 - x.padding);
    for (int64_t a = 0; a < y.phases; a++)
        for (int64_t b = 0; b < x.phases; b++)
            if (const int64_t m = layer.backward_tile(a, b))
                out.reach(y.quotient(y.first(a)) - 1 + over(y.count(a), m),
                          x.quotient(x.first(b)) - 1 + over(x.count(b), m));
    for (int64_t i = 0; i < y.size; i++)
        for (int64_t j = 0; j < x.size; j++) {
            const int64_t a = y.taps(y.phase(i)), b = x.taps(x.phase(j));
            if (a && b) {
                out.reach(y.quotient(i) - a + 1, x.quotient(j) - b + 1);
                out.reach(y.quotient(i), x.quotient(j));
            }
        }
}

void plan(Net &net, size_t l) {
    Layer &layer = net.layers[l];
    const Image &in = net.images[l], &out = net.images[l + 1];
    const Axis &y = layer.y, &x = layer.x;
    Pass &f = layer.forward.direct;
    f.channels = layer.out_channels, f.rows = y.kernel, f.run = x.kernel * layer.in_channels, f.row_stride = in.row();
    f.epilogue = layer.leak == 1 ? PLAIN : FORWARD, f.leak = layer.leak;
    for (int64_t i = 0; i < y.out; i++)
        for (int64_t j = 0; j < x.out; j++) {
            f.source.push_back(in.at(i * y.stride - y.padding, j * x.stride - x.padding));
            f.target.push_back(out.at(i, j));
        }
    f.layout();
    if (layer.strided()) plan(layer.forward.winograd, f, y.out, x.out, 2, layer.in_channels);
    layer.backward.resize(y.phases * x.phases);
    for (int64_t i = 0; i < y.size; i++)
        for (int64_t j = 0; j < x.size; j++) {
            const int64_t a = y.taps(y.phase(i)), b = x.taps(x.phase(j));
            Pass &g = layer.backward[y.phase(i) * x.phases + x.phase(j)].direct;
            const float leak = l ? net.layers[l - 1].leak : 1;
            g.channels = layer.in_channels, g.row_stride = out.row();
            g.rows = b ? a : 0, g.run = b * layer.out_channels;
            g.epilogue = leak == 1 ? PLAIN : BACKWARD, g.leak = leak;
            g.source.push_back(g.rows ? out.at(y.quotient(i) - a + 1, x.quotient(j) - b + 1) : out.at(0, 0));
            g.target.push_back(l ? in.at(i, j) : net.gradient_offset + (i * x.size + j) * layer.in_channels * LANES);
        }
    for (int64_t a = 0; a < y.phases; a++)
        for (int64_t b = 0; b < x.phases; b++) {
            Convolution &g = layer.backward[a * x.phases + b];
            g.direct.layout();
            if (layer.strided()) plan(g.winograd, g.direct, y.count(a), x.count(b), 1, layer.out_channels);
        }
}

// weight [out][in][kernel y][kernel x], bias [out] or null
void pack(Layer &layer, const float *weight, const float *bias) {
    const Axis &y = layer.y, &x = layer.x;
    const int64_t C = layer.in_channels;
    for (int64_t o = 0; o < layer.out_channels; o++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t i = 0; i < y.kernel; i++)
                for (int64_t j = 0; j < x.kernel; j++) {
                    const float value = *weight++;
                    layer.forward.direct.set(o, i, j * C + c, value);
                    const int64_t a = i % y.phases, b = j % x.phases;
                    Pass &g = layer.backward[a * x.phases + b].direct;
                    if (g.source.empty()) continue;  // no pixel of this phase
                    const int64_t row = y.taps(a) - 1 - i / y.phases, column = x.taps(b) - 1 - j / x.phases;
                    g.set(c, row, column * layer.out_channels + o, value);
                }
    layer.forward.direct.bias.clear();
    if (bias) layer.forward.direct.bias.assign(bias, bias + layer.out_channels);
    if (layer.forward.winograd.m) transform(layer.forward.winograd, layer.forward.direct);
    for (Convolution &g : layer.backward)
        if (g.winograd.m) transform(g.winograd, g.direct);
}

// The tables of a convolution's pixels and tiles, for all blocks.
void repeat(Convolution &convolution, int64_t block) {
    Pass &pass = convolution.direct;
    std::vector<Tile> &tiles = convolution.winograd.tiles;
    const size_t pixels = pass.pixels = pass.source.size(), count = tiles.size();
    for (int64_t b = 1; b < BLOCKS; b++) {
        for (size_t p = 0; p < pixels; p++) {
            pass.source.push_back(pass.source[p] + b * block);
            pass.target.push_back(pass.target[p] + b * block);
        }
        for (size_t t = 0; t < count; t++) {
            const Tile &one = tiles[t];
            tiles.push_back({one.source + b * block, one.target + b * block, one.rows, one.columns});
        }
    }
}

void run(const Net &net, const Convolution &convolution, int64_t blocks, float *work) {
    float *scratch = work + BLOCKS * net.block;
    switch (convolution.winograd.m) {
    case 2: return run_winograd<2>(convolution.direct, convolution.winograd, blocks, work, work, scratch);
    case 3: return run_winograd<3>(convolution.direct, convolution.winograd, blocks, work, work, scratch);
    case 4: return run_winograd<4>(convolution.direct, convolution.winograd, blocks, work, work, scratch);
    default: return run(convolution.direct, blocks, work, work);
    }
}

// Energies to the last image (then replaced by their own gradient), gradient to the first's.
void evaluate(const Net &net, int64_t blocks, float *work, float *energy) {
    for (const Layer &layer : net.layers) run(net, layer.forward, blocks, work);
    for (int64_t b = 0; b < blocks; b++) {
        float *last = work + b * net.block + net.images.back().at(0, 0);
        memcpy(energy + b * LANES, last, LANES * sizeof(float));
        for (int i = 0; i < LANES; i++) last[i] = last[i] > 0 ? 1.f : net.layers.back().leak;
    }
    for (size_t l = net.layers.size(); l-- > 0;)
        for (const Convolution &phase : net.layers[l].backward) run(net, phase, blocks, work);
}

// ---------------------------------------------------------------------------------------------------------------
// Noise.

inline lanes_f to_float(lanes_i v) { return __builtin_convertvector(v, lanes_f); }
inline lanes_i bits(lanes_f v) { return (lanes_i)v; }

inline lanes_f square_root(lanes_f v) {
    float r[LANES];
    memcpy(r, &v, sizeof r);
    for (int i = 0; i < LANES; i++) r[i] = __builtin_sqrtf(r[i]);
    memcpy(&v, r, sizeof r);
    return v;
}

inline void multiply(uint32_t m, lanes_u v, lanes_u &high, lanes_u &low) {
    uint32_t x[LANES], h[LANES];
    memcpy(x, &v, sizeof x);
    for (int i = 0; i < LANES; i++) h[i] = (uint64_t)m * x[i] >> 32;
    memcpy(&high, h, sizeof h);
    low = v * m;
}

inline void philox(uint64_t key, lanes_u c[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        lanes_u h0, l0, h1, l1;
        multiply(0xD2511F53u, c[0], h0, l0);
        multiply(0xCD9E8D57u, c[2], h1, l1);
        c[0] = h1 ^ c[1] ^ k0, c[1] = l1;
        c[2] = h0 ^ c[3] ^ k1, c[3] = l0;
    }
}

// log u for u in (0, 1]: u = m * 2^e with m in [0.7, 1.41), log m = 2 atanh((m-1)/(m+1)), error about 1e-7
inline lanes_f logarithm(lanes_f u) {
    const lanes_i shifted = bits(u) - 0x3F3504F3, e = shifted >> 23;
    const lanes_f m = (lanes_f)((shifted & 0x7FFFFF) + 0x3F3504F3), s = (m - 1.f) / (m + 1.f), q = s * s;
    const lanes_f series = 2.f + q * (2.f / 3 + q * (2.f / 5 + q * (2.f / 7 + q * (2.f / 9))));
    return to_float(e) * 0.69314718f + s * series;
}

// Two normals from two words: radius from the first (uniform in (0, 1], down to 2^-33: |z| reaches 6.7), angle from
// the second, whose two highest bits (rounded) are the quadrant and whose rest is exact.
inline void box_muller(lanes_u a, lanes_u b, lanes_f &first, lanes_f &second) {
    const lanes_f high = to_float((lanes_i)(a >> 16)), low = to_float((lanes_i)(a & 0xFFFF));
    const lanes_f u = (high * 65536.f + (low + 0.5f)) * 0x1p-32f, radius = square_root(-2.f * logarithm(u));
    const lanes_i turn = (lanes_i)((b + (1u << 29)) >> 30);
    const lanes_f t = to_float((lanes_i)(b - ((lanes_u)turn << 30))) * (float)(6.283185307179586 * 0x1p-32), q = t * t;
    const lanes_f sine = t + t * q * (-1.f / 6 + q * (1.f / 120 + q * (-1.f / 5040 + q * (1.f / 362880))));
    const lanes_f cosine =
        1.f + q * (-0.5f + q * (1.f / 24 + q * (-1.f / 720 + q * (1.f / 40320 + q * (-1.f / 3628800)))));
    const lanes_i odd = (turn & 1) != 0;
    const lanes_f c = odd ? sine : cosine, s = odd ? cosine : sine;
    first = (lanes_f)(bits(radius * c) ^ (((turn + 1) & 2) << 30));
    second = (lanes_f)(bits(radius * s) ^ ((turn & 2) << 30));
}

// Elements 4*group ... 4*group+3 of sixteen chains. Not inlined, so that both callers get the same instructions.
__attribute__((noinline)) void four_normals(uint64_t key, uint32_t group, uint32_t step, const int64_t *chains,
                                            lanes_f z[4]) {
    lanes_u c[4] = {lanes_u{} + group, lanes_u{} + step, {}, {}};
    for (int i = 0; i < LANES; i++) c[2][i] = (uint32_t)chains[i], c[3][i] = (uint32_t)((uint64_t)chains[i] >> 32);
    philox(key, c);
    box_muller(c[0], c[1], z[0], z[1]);
    box_muller(c[2], c[3], z[2], z[3]);
}

struct Squares {  // a sum of squares in four parts, added pairwise at the end
    lanes_f part[4] = {};
    void add(int64_t i, lanes_f v) { part[i & 3] += v * v; }
    lanes_f root() const { return square_root((part[0] + part[1]) + (part[2] + part[3])); }
};

inline lanes_f block(const float *p) { return *reinterpret_cast<const lanes_f *>(p); }

}  // namespace

// ---------------------------------------------------------------------------------------------------------------
// C interface.

extern "C" {

// layers: ten integers each: in, out, kernel y x, stride y x, padding y x, and the input's height and width.
// unshuffle: 1 or 2, the factor of a space-to-depth before the first layer (whose numbers are those after it).
void *ebm_create(int64_t count, const int64_t *layers, const float *leaks, int64_t unshuffle) {
    Net *net = new Net;
    for (int64_t l = 0; l < count; l++, layers += 10) {
        Layer layer;
        layer.in_channels = layers[0], layer.out_channels = layers[1], layer.leak = leaks[l];
        layer.y = {layers[8], layers[2], layers[4], layers[6], 0, 0};
        layer.x = {layers[9], layers[3], layers[5], layers[7], 0, 0};
        layer.y.finish(), layer.x.finish();
        Image image;
        image.channels = layers[0], image.height = layers[8], image.width = layers[9];
        net->images.push_back(image);
        net->layers.push_back(layer);
    }
    Image last;
    last.channels = last.height = last.width = 1;
    net->images.push_back(last);
    for (size_t l = 0; l < net->layers.size(); l++) reach(*net, l);
    for (Image &image : net->images) image.offset = net->block, net->block += image.size();
    net->gradient_offset = net->block;
    const Image first = net->images[0];
    net->block += first.channels * first.height * first.width * LANES;
    const int64_t s = unshuffle, square = s * s;
    for (int64_t c = 0; c < first.channels / square; c++)
        for (int64_t y = 0; y < first.height * s; y++)
            for (int64_t x = 0; x < first.width * s; x++) {
                const int64_t channel = c * square + y % s * s + x % s;
                net->element.push_back(first.at(y / s, x / s) + channel * LANES);
                net->gradient.push_back(net->gradient_offset +
                                        ((y / s * first.width + x / s) * first.channels + channel) * LANES);
            }
    auto finish = [&](Convolution &g) {
        repeat(g, net->block);
        if (g.winograd.scratch() > net->scratch) net->scratch = g.winograd.scratch();
    };
    for (size_t l = 0; l < net->layers.size(); l++) {
        plan(*net, l);
        finish(net->layers[l].forward);
        for (Convolution &g : net->layers[l].backward) finish(g);
    }
    return net;
}

void ebm_free(void *net) { delete static_cast<Net *>(net); }

int64_t ebm_floats(const void *net) { return static_cast<const Net *>(net)->floats(); }

void ebm_pack(void *net, int64_t layer, const float *weight, const float *bias) {
    pack(static_cast<Net *>(net)->layers[layer], weight, bias);
}

// Up to BLOCKS * LANES chains. work: ebm_floats floats, 64-byte aligned, zero before its first use with this net, then
// left alone. x, x_out, slope, grad [count][size]; chains [count]; energy, norm [steps+1] rows of `stride` floats;
// length [count]. Energies and gradients are those of U = scale * F. State l+1 = state l - drift * gradient
// + sigma * noise(step0 + l). slope: the gradient at x, whose energy is then in the first row already, or null.
// length is read and added to: a path that is made in two calls gives the sums of one. x_out and length may be null.
void ebm_path(const void *handle, float *work, int64_t count, const float *x, const float *slope, float *x_out,
              float *grad, float *energy, float *norm, float *length, int64_t stride, int64_t steps, float scale,
              float drift, float sigma, uint64_t key, const int64_t *chains, int64_t step0) {
    const Net &net = *static_cast<const Net *>(handle);
    const int64_t size = net.element.size(), blocks = (count + LANES - 1) / LANES;
    auto put = [&](const float *values, const std::vector<int64_t> &places) {
        for (int64_t i = 0; i < blocks * LANES; i++)
            for (int64_t e = 0; e < size; e++)
                work[i / LANES * net.block + places[e] + i % LANES] = i < count ? values[i * size + e] : 0.f;
    };
    auto take = [&](float *values, const std::vector<int64_t> &places) {
        for (int64_t i = 0; i < count; i++)
            for (int64_t e = 0; e < size; e++) values[i * size + e] = work[i / LANES * net.block + places[e] + i % LANES];
    };
    int64_t ids[BLOCKS * LANES] = {};
    for (int64_t i = 0; i < count; i++) ids[i] = chains ? chains[i] : 0;
    put(x, net.element);
    if (slope) put(slope, net.gradient);
    lanes_f travelled[BLOCKS] = {};
    for (int64_t i = 0; length && i < count; i++) travelled[i / LANES][i % LANES] = length[i];
    for (int64_t l = 0;; l++) {
        float value[BLOCKS * LANES];
        const bool known = l == 0 && slope;
        if (!known) {
            evaluate(net, blocks, work, value);
            for (int64_t i = 0; i < count; i++) energy[l * stride + i] = scale * value[i];
        }
        for (int64_t b = 0; b < blocks; b++) {
            float *here = work + b * net.block;
            Squares steepness, moved;
            for (int64_t e = 0; e < size; e++) {
                lanes_f &g = *reinterpret_cast<lanes_f *>(here + net.gradient[e]);
                if (!known) g *= scale;
                steepness.add(e, g);
            }
            const lanes_f root = steepness.root();
            for (int64_t i = 0; i < LANES && b * LANES + i < count; i++) norm[l * stride + b * LANES + i] = root[i];
            if (l == steps) continue;
            for (int64_t e = 0; e < size; e += 4) {
                lanes_f z[4] = {};
                if (sigma != 0) four_normals(key, (uint32_t)(e / 4), (uint32_t)(step0 + l), ids + b * LANES, z);
                for (int64_t j = e; j < size && j < e + 4; j++) {
                    const lanes_f change = sigma * z[j - e] - drift * block(here + net.gradient[j]);
                    *reinterpret_cast<lanes_f *>(here + net.element[j]) += change;
                    moved.add(j, change);
                }
            }
            travelled[b] += moved.root();
        }
        if (l == steps) break;
    }
    take(grad, net.gradient);
    if (x_out) take(x_out, net.element);
    for (int64_t i = 0; length && i < count; i++) length[i] = travelled[i / LANES][i % LANES];
}

// out [count][size]: the numbers that step `step` of a path adds (times sigma) to the chains.
void ebm_normal(uint64_t key, int64_t count, const int64_t *chains, int64_t step, int64_t size, float *out) {
    for (int64_t first = 0; first < count; first += LANES) {
        const int64_t here = count - first < LANES ? count - first : LANES;
        int64_t ids[LANES] = {};
        for (int64_t i = 0; i < here; i++) ids[i] = chains[first + i];
        for (int64_t e = 0; e < size; e += 4) {
            lanes_f z[4];
            four_normals(key, (uint32_t)(e / 4), (uint32_t)step, ids, z);
            for (int64_t j = e; j < size && j < e + 4; j++)
                for (int64_t i = 0; i < here; i++) out[(first + i) * size + j] = z[j - e][i];
        }
    }
}

// out [count][size]: the words that the normals of ebm_normal are made of.
void ebm_words(uint64_t key, int64_t count, const int64_t *chains, int64_t step, int64_t size, uint32_t *out) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t e = 0; e < size; e += 4 * LANES) {  // a lane a group
            lanes_u c[4] = {{}, lanes_u{} + (uint32_t)step, lanes_u{} + (uint32_t)chains[i], {}};
            for (int l = 0; l < LANES; l++) c[0][l] = (uint32_t)(e / 4 + l);
            c[3] += (uint32_t)((uint64_t)chains[i] >> 32);
            philox(key, c);
            for (int64_t j = e; j < size && j < e + 4 * LANES; j++) out[i * size + j] = c[j & 3][(j - e) / 4];
        }
}

// The generator's raw words for one counter, to check them against published vectors.
void ebm_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]) {
    lanes_u c[4];
    for (int i = 0; i < 4; i++) c[i] = lanes_u{} + counter[i];
    philox(key, c);
    for (int i = 0; i < 4; i++) out[i] = c[i][0];
}

}  // extern "C"
