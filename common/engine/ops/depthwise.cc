// Depthwise convolutions on plain (N, C, H, W) arrays, with one size of kernel or, as in mixed
// depthwise convolutions (arXiv:1907.09595), another one for each part of the channels.
//
// A vector holds one position of kLanes channels. So every tap is a product of whole vectors,
// whatever the stride and however small the picture, and what lies outside a small picture is
// mostly left out. Pictures are transposed on their way into and out of a plane of such vectors,
// which has zeros around it and stays in the cache.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// ---------------------------------------------------------------------------------- geometry

// Channels first..first+channels-1 and their square kernel.
struct Part {
  int64_t first, channels, kernel, pad;

  int64_t taps() const { return kernel * kernel; }
  int64_t blocks() const { return (channels + kLanes - 1) / kLanes; }
};

struct Options {
  std::vector<Part> parts;
  int64_t stride;

  explicit Options(const Attributes& attributes)
      : stride(whole_numbers(attributes.at("stride")).at(0)) {
    const auto channels = whole_numbers(attributes.at("channels"));
    const auto kernels = whole_numbers(attributes.at("kernel"));
    const auto pads = whole_numbers(attributes.at("pad"));
    int64_t first = 0;
    for (size_t i = 0; i < channels.size(); ++i) {
      parts.push_back({first, channels[i], kernels[i], pads[i]});
      first += channels[i];
    }
  }

  int64_t output_size(int64_t size, const Part& part) const {
    return (size + 2 * part.pad - part.kernel) / stride + 1;
  }
};

// One direction, rows or columns, of a sum over taps: output u of `count` lies at
// out_start + u * out_step and is the sum over t < taps of what lies in a plane at
// in_start + u * in_step + t * tap_step, times the weight at tap_start + t * tap_stride.
struct Axis {
  int64_t count, out_start, out_step;
  int64_t in_start, in_step, tap_step;
  int64_t taps, tap_start, tap_stride;
  std::vector<int64_t> begin, end;  // of the taps of output u that meet the picture

  // The picture lies at first..first+size-1 of the plane.
  void find_taps(int64_t first, int64_t size) {
    for (int64_t u = 0; u < count; ++u) {
      int64_t from = taps, to = 0;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t at = in_start + u * in_step + t * tap_step - first;
        if (at < 0 || at >= size) continue;
        from = std::min(from, t);
        to = t + 1;
      }
      begin.push_back(from);
      end.push_back(to);
    }
  }
};

// A picture of rows x columns within a plane, `before` zeros on its left and above it.
struct Frame {
  int64_t rows, columns, before, pitch, size;  // size in vectors
  std::vector<int64_t> places;                 // of the picture's positions, in floats

  Frame(int64_t rows, int64_t columns, int64_t before, int64_t after_rows, int64_t after_columns)
      : rows(rows),
        columns(columns),
        before(before),
        pitch(before + columns + after_columns),
        size((before + rows + after_rows) * pitch) {
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        places.push_back(((y + before) * pitch + x + before) * kLanes);
      }
    }
  }
};

// Everything about a part that does not depend on the channel.
struct Plan {
  Part part;
  int64_t stride, height, width, out_height, out_width;
  Frame input, gradient;  // planes of x and of dy

  Plan(const Options& options, const Part& part, int64_t height, int64_t width)
      : part(part),
        stride(options.stride),
        height(height),
        width(width),
        out_height(options.output_size(height, part)),
        out_width(options.output_size(width, part)),
        input(height, width, part.pad, part.pad, part.pad),
        gradient(out_height, out_width, (part.kernel - 1 - part.pad + stride - 1) / stride,
                 beyond(height, out_height), beyond(width, out_width)) {}

  Axis forward(int64_t size, int64_t out_size) const {
    Axis axis{out_size, 0, 1, 0, stride, 1, part.kernel, 0, 1, {}, {}};
    axis.find_taps(part.pad, size);
    return axis;
  }

  // Inputs phase, phase + stride ...: only every stride-th tap leads to them.
  Axis backward(int64_t size, int64_t out_size, int64_t phase) const {
    const int64_t tap = (phase + part.pad) % stride;
    Axis axis{(size - phase + stride - 1) / stride,
              phase,
              stride,
              gradient.before + (phase + part.pad - tap) / stride,
              1,
              -1,
              (part.kernel - tap + stride - 1) / stride,
              tap,
              stride,
              {},
              {}};
    axis.find_taps(gradient.before, out_size);
    return axis;
  }

 private:
  // Outputs that the last inputs would reach if there were more.
  int64_t beyond(int64_t size, int64_t out_size) const {
    return std::max<int64_t>(0, (size - 1 + part.pad) / stride - (out_size - 1));
  }
};

// ----------------------------------------------------------------------------------- planes

// Channels `from` + l * positions, l < lanes, into the plane's vectors; zeros for the other lanes.
void load_plane(const float* from, int64_t lanes, const Frame& frame, float* plane) {
  const int64_t positions = frame.rows * frame.columns;
  const int64_t count = std::min<int64_t>(kLanes, positions);
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t at = std::min(p, positions - count);  // the last vectors overlap
    Vec rows[kLanes] = {};
    for (int64_t l = 0; l < lanes; ++l) rows[l] = load_first(from + l * positions + at, count);
    transpose(rows);
    for (int64_t i = 0; i < count; ++i) store(plane + frame.places[at + i], rows[i]);
  }
}

// The reverse, from vectors that lie one after the other.
void store_channels(const float* vectors, int64_t positions, int64_t lanes, float* to) {
  const int64_t count = std::min<int64_t>(kLanes, positions);
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t at = std::min(p, positions - count);
    Vec rows[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) rows[i] = load(vectors + (at + i) * kLanes);
    transpose(rows);
    for (int64_t l = 0; l < lanes; ++l) store_first(to + l * positions + at, rows[l], count);
  }
}

// Weights (lanes, taps) as (taps, kLanes), zeros behind the last channel.
void pack_weights(const float* weight, int64_t lanes, int64_t taps, float* packed) {
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t l = 0; l < kLanes; ++l) {
      packed[t * kLanes + l] = l < lanes ? weight[l * taps + t] : 0.f;
    }
  }
}

// -------------------------------------------------------------------------------- sum of taps

constexpr int kBlockRows = 4, kBlockColumns = 3;  // outputs at a time

// What a block of outputs needs, in floats.
struct Block {
  const float *in, *weights;
  int64_t in_row, in_column, tap_row, tap_column, weight_row, weight_column;
  int64_t first_row, last_row, first_column, last_column;  // of the taps
  float* out;
  int64_t out_row, out_column;
};

template <int kHigh, int kWide>
inline void sum_block(const Block& block) {
  Vec sums[kHigh][kWide] = {};
  for (int64_t i = block.first_row; i < block.last_row; ++i) {
    const float* in = block.in + i * block.tap_row + block.first_column * block.tap_column;
    const float* weights =
        block.weights + i * block.weight_row + block.first_column * block.weight_column;
    for (int64_t j = block.first_column; j < block.last_column; ++j) {
      const Vec weight = load(weights);
      for (int r = 0; r < kHigh; ++r) {
        for (int c = 0; c < kWide; ++c) {
          const Vec value = load(in + r * block.in_row + c * block.in_column);
          sums[r][c] = multiply_add(weight, value, sums[r][c]);
        }
      }
      in += block.tap_column;
      weights += block.weight_column;
    }
  }
  for (int r = 0; r < kHigh; ++r) {
    for (int c = 0; c < kWide; ++c) {
      store(block.out + r * block.out_row + c * block.out_column, sums[r][c]);
    }
  }
}

using SumBlock = void (*)(const Block&);
constexpr SumBlock kSumBlock[kBlockRows][kBlockColumns] = {
    {sum_block<1, 1>, sum_block<1, 2>, sum_block<1, 3>},
    {sum_block<2, 1>, sum_block<2, 2>, sum_block<2, 3>},
    {sum_block<3, 1>, sum_block<3, 2>, sum_block<3, 3>},
    {sum_block<4, 1>, sum_block<4, 2>, sum_block<4, 3>},
};

// All outputs of two axes, from a plane to vectors of rows of `out_pitch`.
void sum_taps(const Axis& rows, const Axis& columns, int64_t kernel, const float* weights,
              const float* plane, int64_t pitch, float* out, int64_t out_pitch) {
  Block block;
  block.in_row = rows.in_step * pitch * kLanes;
  block.in_column = columns.in_step * kLanes;
  block.tap_row = rows.tap_step * pitch * kLanes;
  block.tap_column = columns.tap_step * kLanes;
  block.weight_row = rows.tap_stride * kernel * kLanes;
  block.weight_column = columns.tap_stride * kLanes;
  block.weights = weights + (rows.tap_start * kernel + columns.tap_start) * kLanes;
  block.out_row = rows.out_step * out_pitch * kLanes;
  block.out_column = columns.out_step * kLanes;
  const float* origin = plane + (rows.in_start * pitch + columns.in_start) * kLanes;
  float* out_origin = out + (rows.out_start * out_pitch + columns.out_start) * kLanes;
  for (int64_t u = 0; u < rows.count; u += kBlockRows) {
    const int64_t high = std::min<int64_t>(kBlockRows, rows.count - u);
    block.first_row = *std::min_element(&rows.begin[u], &rows.begin[u] + high);
    block.last_row = *std::max_element(&rows.end[u], &rows.end[u] + high);
    for (int64_t v = 0; v < columns.count; v += kBlockColumns) {
      const int64_t wide = std::min<int64_t>(kBlockColumns, columns.count - v);
      block.first_column = *std::min_element(&columns.begin[v], &columns.begin[v] + wide);
      block.last_column = *std::max_element(&columns.end[v], &columns.end[v] + wide);
      block.in = origin + u * block.in_row + v * block.in_column;
      block.out = out_origin + u * block.out_row + v * block.out_column;
      kSumBlock[high - 1][wide - 1](block);
    }
  }
}

// ----------------------------------------------------------------------------- weight gradient

// sums (kernel * kernel, kLanes) += products of output gradients with what kHigh rows of taps from
// `tap_row` on multiplied.
template <int kKernel, int kHigh>
void correlate(const Plan& plan, const float* x, const float* dy, int64_t tap_row, double* sums) {
  const int64_t stride = plan.stride, pad = plan.part.pad;
  const int64_t above = std::max<int64_t>(0, pad - (tap_row + kHigh - 1));
  const int64_t first = (above + stride - 1) / stride;
  const int64_t below = pad + plan.height - 1 - tap_row;
  const int64_t last = below < 0 ? 0 : std::min(plan.out_height, below / stride + 1);
  Vec block[kHigh][kKernel] = {};
  for (int64_t y = first; y < last; ++y) {
    const float* gradients = dy + plan.gradient.places[y * plan.out_width];
    const float* inputs = x + (y * stride + tap_row) * plan.input.pitch * kLanes;
    for (int64_t column = 0; column < plan.out_width; ++column) {
      const Vec gradient = load(gradients + column * kLanes);
      for (int i = 0; i < kHigh; ++i) {
        const float* taps = inputs + (i * plan.input.pitch + column * stride) * kLanes;
        for (int j = 0; j < kKernel; ++j) {
          block[i][j] = multiply_add(gradient, load(taps + j * kLanes), block[i][j]);
        }
      }
    }
  }
  for (int i = 0; i < kHigh; ++i) {
    for (int j = 0; j < kKernel; ++j) {
      double* sum = sums + ((tap_row + i) * kKernel + j) * kLanes;
      for (int l = 0; l < kLanes; ++l) sum[l] += block[i][j][l];
    }
  }
}

// kHigh rows of taps at a time fill the registers with sums.
template <int kKernel, int kHigh>
void weight_gradient(const Plan& plan, const float* x, const float* dy, double* sums) {
  int64_t row = 0;
  for (; row + kHigh <= kKernel; row += kHigh) correlate<kKernel, kHigh>(plan, x, dy, row, sums);
  for (; row < kKernel; ++row) correlate<kKernel, 1>(plan, x, dy, row, sums);
}

using WeightGradient = void (*)(const Plan&, const float*, const float*, double*);

WeightGradient weight_gradient_of(int64_t kernel) {
  switch (kernel) {
    case 3:
      return weight_gradient<3, 3>;
    case 5:
      return weight_gradient<5, 2>;
    case 7:
      return weight_gradient<7, 2>;
    case 9:
      return weight_gradient<9, 1>;
    case 11:
      return weight_gradient<11, 1>;
    default:
      return nullptr;
  }
}

// ------------------------------------------------------------------------------------ operator

MXReturnValue depthwise_arity(const Attributes& attributes, int* inputs, int* outputs) {
  size_t parts = 0;
  for (const char* name : {"channels", "kernel", "pad", "stride"}) {
    const auto found = attributes.find(name);
    const size_t count = found == attributes.end() ? 0 : whole_numbers(found->second).size();
    if (parts == 0) parts = count;
    if (count == 0 || (count != parts && std::string(name) != "stride")) {
      MX_ERROR_MSG << "vg_depthwise needs as many whole numbers as it has parts as " << name;
      return MX_FAIL;
    }
  }
  const Options options(attributes);
  for (const Part& part : options.parts) {
    if (!weight_gradient_of(part.kernel) || part.pad > part.kernel / 2 || options.stride < 1 ||
        options.stride > 2) {
      MX_ERROR_MSG << "vg_depthwise has kernels of 3, 5, 7, 9 and 11, padding of at most half of "
                      "that, strides of 1 and 2";
      return MX_FAIL;
    }
  }
  *inputs = 1 + static_cast<int>(parts);
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue depthwise_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const Options options(attributes);
  const auto data = inputs->at(0);
  std::vector<unsigned> output;
  int64_t channels = 0;
  for (size_t i = 0; i < options.parts.size(); ++i) {
    const Part& part = options.parts[i];
    const unsigned count = part.channels, kernel = part.kernel;
    inputs->at(1 + i) = {count, 1, kernel, kernel};
    const std::vector<unsigned> shape = {data[0], data[1],
                                         static_cast<unsigned>(options.output_size(data[2], part)),
                                         static_cast<unsigned>(options.output_size(data[3], part))};
    if (data[2] + 2 * part.pad < kernel || data[3] + 2 * part.pad < kernel ||
        (i > 0 && shape != output)) {
      MX_ERROR_MSG << "vg_depthwise: a kernel is larger than the picture, or the outputs differ";
      return MX_FAIL;
    }
    output = shape;
    channels += part.channels;
  }
  if (channels != data[1]) {
    MX_ERROR_MSG << "vg_depthwise: the parts have " << channels << " channels, the input "
                 << data[1];
    return MX_FAIL;
  }
  outputs->at(0) = output;
  return MX_SUCCESS;
}

// kLanes channels of a part and a slice of the batch: what a thread does at a time.
struct Task {
  const Plan* plan;
  size_t part;
  int64_t channel, lanes;  // the first channel, counted from the part's
  int64_t first, last;     // images
};

// Tasks in an order in which neighbours take about the same time. Their number depends on the
// shapes alone.
std::vector<Task> tasks_of(const std::vector<Plan>& plans, int64_t batch) {
  int64_t blocks = 0;
  for (const Plan& plan : plans) blocks += plan.part.blocks();
  const int64_t slices = std::min<int64_t>(batch, (32 + blocks - 1) / blocks);
  std::vector<Task> tasks;
  for (size_t i = 0; i < plans.size(); ++i) {
    for (int64_t channel = 0; channel < plans[i].part.channels; channel += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, plans[i].part.channels - channel);
      for (int64_t slice = 0; slice < slices; ++slice) {
        tasks.push_back(
            {&plans[i], i, channel, lanes, slice * batch / slices, (slice + 1) * batch / slices});
      }
    }
  }
  return tasks;
}

std::vector<Plan> plans_of(const Options& options, const MXTensor& data) {
  std::vector<Plan> plans;
  for (const Part& part : options.parts) {
    plans.emplace_back(options, part, data.shape[2], data.shape[3]);
  }
  return plans;
}

float* zeros(float* plane, int64_t vectors) {
  std::fill(plane, plane + vectors * kLanes, 0.f);
  return plane;
}

MXReturnValue depthwise_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                const OpResource&) {
  const Options options(attributes);
  const Layout layout(inputs->at(0)), out_layout(outputs->at(0));
  const std::vector<Plan> plans = plans_of(options, inputs->at(0));
  const std::vector<Task> tasks = tasks_of(plans, layout.batch);
  const float* x = floats(inputs, 0);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static, 1) if (layout.parallel())
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Task& task = tasks[i];
    const Plan& plan = *task.plan;
    const int64_t taps = plan.part.taps(), channel = plan.part.first + task.channel;
    const Axis rows = plan.forward(plan.height, plan.out_height);
    const Axis columns = plan.forward(plan.width, plan.out_width);
    float* weights = scratch<0>(taps * kLanes);
    float* plane = zeros(scratch<1>(plan.input.size * kLanes), plan.input.size);
    float* out = scratch<2>(out_layout.positions * kLanes);
    pack_weights(floats(inputs, 1 + task.part) + task.channel * taps, task.lanes, taps, weights);
    for (int64_t n = task.first; n < task.last; ++n) {
      load_plane(x + layout.row(n, channel), task.lanes, plan.input, plane);
      sum_taps(rows, columns, plan.part.kernel, weights, plane, plan.input.pitch, out,
               plan.out_width);
      store_channels(out, out_layout.positions, task.lanes, y + out_layout.row(n, channel));
    }
  }
  return MX_SUCCESS;
}

// Gradients of one task; `sums` gets the weights' as (taps, kLanes).
void task_gradient(const Task& task, const Layout& layout, const Layout& out_layout,
                   const float* dy, const float* x, const float* weight, float* dx, double* sums) {
  const Plan& plan = *task.plan;
  const int64_t taps = plan.part.taps(), channel = plan.part.first + task.channel;
  std::vector<Axis> rows, columns;
  for (int64_t phase = 0; phase < plan.stride; ++phase) {
    rows.push_back(plan.backward(plan.height, plan.out_height, phase));
    columns.push_back(plan.backward(plan.width, plan.out_width, phase));
  }
  float* weights = scratch<0>(taps * kLanes);
  float* plane = zeros(scratch<1>(plan.input.size * kLanes), plan.input.size);
  float* gradients = zeros(scratch<3>(plan.gradient.size * kLanes), plan.gradient.size);
  float* out = scratch<2>(layout.positions * kLanes);
  pack_weights(weight + task.channel * taps, task.lanes, taps, weights);
  for (int64_t n = task.first; n < task.last; ++n) {
    load_plane(x + layout.row(n, channel), task.lanes, plan.input, plane);
    load_plane(dy + out_layout.row(n, channel), task.lanes, plan.gradient, gradients);
    for (const Axis& row : rows) {
      for (const Axis& column : columns) {
        sum_taps(row, column, plan.part.kernel, weights, gradients, plan.gradient.pitch, out,
                 plan.width);
      }
    }
    store_channels(out, layout.positions, task.lanes, dx + layout.row(n, channel));
    weight_gradient_of(plan.part.kernel)(plan, plane, gradients, sums);
  }
}

MXReturnValue depthwise_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                 const OpResource&) {
  const Options options(attributes);
  const Layout out_layout(inputs->at(0)), layout(inputs->at(1));
  const std::vector<Plan> plans = plans_of(options, inputs->at(1));
  const std::vector<Task> tasks = tasks_of(plans, layout.batch);
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1);
  float* dx = floats(outputs, 0);
  std::vector<std::vector<double>> sums(tasks.size());
#pragma omp parallel for schedule(static, 1) if (layout.parallel())
  for (size_t i = 0; i < tasks.size(); ++i) {
    sums[i].resize(tasks[i].plan->part.taps() * kLanes);
    task_gradient(tasks[i], layout, out_layout, dy, x, floats(inputs, 2 + tasks[i].part), dx,
                  sums[i].data());
  }
  for (size_t i = 0; i < tasks.size();) {  // the slices of a block lie one after the other
    const Task& task = tasks[i];
    std::vector<double> total = sums[i];
    for (++i; i < tasks.size() && tasks[i].first > 0; ++i) {
      for (size_t k = 0; k < total.size(); ++k) total[k] += sums[i][k];
    }
    const int64_t taps = task.plan->part.taps();
    float* dweight = floats(outputs, 1 + task.part) + task.channel * taps;
    for (int64_t l = 0; l < task.lanes; ++l) {
      for (int64_t t = 0; t < taps; ++t) dweight[l * taps + t] = total[t * kLanes + l];
    }
  }
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(vg_depthwise)
    .setForward(depthwise_forward, "cpu")
    .setBackward(depthwise_backward, "cpu")
    .setParseAttrs(depthwise_arity)
    .setInferType(float32_only)
    .setInferShape(depthwise_shape);

}  // namespace vargfacenet
