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

#include "channels.h"
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

void load_plane(const float* from, int64_t lanes, const Frame& frame, float* plane) {
  const int64_t positions = frame.rows * frame.columns;
  load_channels(from, positions, positions, lanes,
                [&](int64_t i) { return plane + frame.places[i]; });
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

// What a row of blocks needs. `in` and `out` are those of its first output, distances in floats.
struct BlockRow {
  const float *in, *weights;
  int64_t in_row, tap_row, weight_row, weight_column;
  int64_t first_tap, last_tap;  // rows of them
  float* out;
  int64_t out_row, out_column;
};

// kHigh x kWide outputs from column v on; taps first..last-1 of a row of taps meet the picture.
// From column to column the input moves by kStep vectors, from tap to tap by kTapStep.
template <int kStep, int kTapStep, int kHigh, int kWide>
__attribute__((always_inline)) inline void sum_block(const BlockRow& row, int64_t v, int64_t first,
                                                     int64_t last) {
  Vec sums[kHigh][kWide];
  for (int r = 0; r < kHigh; ++r) {
    for (int c = 0; c < kWide; ++c) sums[r][c] = splat(0.f);
  }
  const int64_t in_row = row.in_row, weight_column = row.weight_column;
  const float* in_origin = row.in + (v * kStep + first * kTapStep) * kLanes;
  const float* weight_origin = row.weights + first * weight_column;
  for (int64_t i = row.first_tap; i < row.last_tap; ++i) {
    const float* in = in_origin + i * row.tap_row;
    const float* weights = weight_origin + i * row.weight_row;
    for (int64_t j = first; j < last; ++j) {
      const Vec weight = load(weights);
      for (int r = 0; r < kHigh; ++r) {
        for (int c = 0; c < kWide; ++c) {
          const Vec value = load(in + r * in_row + c * kStep * kLanes);
          sums[r][c] = multiply_add(weight, value, sums[r][c]);
        }
      }
      in += kTapStep * kLanes;
      weights += weight_column;
      asm("" : "+r"(in));  // else GCC carries what taps share in registers that it has not got
    }
  }
  for (int r = 0; r < kHigh; ++r) {
    for (int c = 0; c < kWide; ++c) {
      store(row.out + r * row.out_row + (v + c) * row.out_column, sums[r][c]);
    }
  }
}

template <int kStep, int kTapStep, int kHigh>
void sum_block_row(const BlockRow& row, const Axis& columns) {
  for (int64_t v = 0; v < columns.count; v += kBlockColumns) {
    const int64_t wide = std::min<int64_t>(kBlockColumns, columns.count - v);
    int64_t first = columns.taps, last = 0;
    for (int64_t c = v; c < v + wide; ++c) {
      first = std::min(first, columns.begin[c]);
      last = std::max(last, columns.end[c]);
    }
    if (wide == 3) {
      sum_block<kStep, kTapStep, kHigh, 3>(row, v, first, last);
    } else if (wide == 2) {
      sum_block<kStep, kTapStep, kHigh, 2>(row, v, first, last);
    } else {
      sum_block<kStep, kTapStep, kHigh, 1>(row, v, first, last);
    }
  }
}

using SumBlockRow = void (*)(const BlockRow&, const Axis&);

template <int kStep, int kTapStep>
SumBlockRow sum_block_row_of(int64_t high) {
  constexpr SumBlockRow kByRows[kBlockRows] = {
      sum_block_row<kStep, kTapStep, 1>, sum_block_row<kStep, kTapStep, 2>,
      sum_block_row<kStep, kTapStep, 3>, sum_block_row<kStep, kTapStep, 4>};
  return kByRows[high - 1];
}

// All outputs of two axes, from a plane to vectors of rows of `out_pitch`.
void sum_taps(const Axis& rows, const Axis& columns, int64_t kernel, const float* weights,
              const float* plane, int64_t pitch, float* out, int64_t out_pitch) {
  BlockRow row;
  row.in_row = rows.in_step * pitch * kLanes;
  row.tap_row = rows.tap_step * pitch * kLanes;
  row.weight_row = rows.tap_stride * kernel * kLanes;
  row.weight_column = columns.tap_stride * kLanes;
  row.weights = weights + (rows.tap_start * kernel + columns.tap_start) * kLanes;
  row.out_row = rows.out_step * out_pitch * kLanes;
  row.out_column = columns.out_step * kLanes;
  const float* origin = plane + (rows.in_start * pitch + columns.in_start) * kLanes;
  float* out_origin = out + (rows.out_start * out_pitch + columns.out_start) * kLanes;
  for (int64_t u = 0; u < rows.count; u += kBlockRows) {
    const int64_t high = std::min<int64_t>(kBlockRows, rows.count - u);
    row.first_tap = rows.taps;
    row.last_tap = 0;
    for (int64_t r = u; r < u + high; ++r) {
      row.first_tap = std::min(row.first_tap, rows.begin[r]);
      row.last_tap = std::max(row.last_tap, rows.end[r]);
    }
    row.in = origin + u * row.in_row;
    row.out = out_origin + u * row.out_row;
    if (columns.tap_step < 0) {
      sum_block_row_of<1, -1>(high)(row, columns);
    } else if (columns.in_step == 1) {
      sum_block_row_of<1, 1>(high)(row, columns);
    } else {
      sum_block_row_of<2, 1>(high)(row, columns);
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
    float* plane = zeros(scratch<1>(plan.input.size * kLanes), plan.input.size * kLanes);
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
  float* plane = zeros(scratch<1>(plan.input.size * kLanes), plan.input.size * kLanes);
  float* gradients = zeros(scratch<3>(plan.gradient.size * kLanes), plan.gradient.size * kLanes);
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
