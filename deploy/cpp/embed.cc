// Embeds an aligned face with an exported model, in C++ with OpenVINO's run time:
//
//     deploy/cpp/build.sh /tmp/embed
//     /tmp/embed export/model.onnx face.ppm
//
// The picture is a binary PPM of 112x112, as cv2.imwrite('face.ppm', ...) writes it. Prints one
// number of the embedding a line, scaled to unit length; errors go to stderr with exit code 2.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/core/preprocess/pre_post_process.hpp>
#include <openvino/openvino.hpp>

namespace {

constexpr size_t kSide = 112;

// The next word of a PPM's header, behind comments; they go from # to the end of the line.
std::string header_word(std::istream& file) {
  std::string word, comment;
  while (file >> word && word[0] == '#') std::getline(file, comment);
  return word;
}

// Pixels of a binary PPM, RGB, row by row.
std::vector<uint8_t> read_face(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be opened");
  const std::string magic = header_word(file), width = header_word(file),
                    height = header_word(file);
  if (magic != "P6" || header_word(file) != "255") {
    throw std::runtime_error(path + ": expected a binary PPM (P6) with 8 bits a channel");
  }
  if (width != std::to_string(kSide) || height != std::to_string(kSide)) {
    throw std::runtime_error(path + ": " + width + "x" + height +
                             " pixels; expected an aligned crop of 112x112");
  }
  file.get();  // the one white space after the header
  std::vector<uint8_t> pixels(kSide * kSide * 3);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size())) {
    throw std::runtime_error(path + ": the picture is cut off");
  }
  return pixels;
}

std::vector<float> embed(const std::string& model_path, std::vector<uint8_t> pixels) {
  if (!std::ifstream(model_path)) throw std::runtime_error(model_path + " cannot be opened");
  ov::Core core;
  auto model = core.read_model(model_path);
  // OpenVINO turns bytes row by row into what the model takes, float32 or uint8, plane by plane.
  ov::preprocess::PrePostProcessor steps(model);
  steps.input()
      .tensor()
      .set_element_type(ov::element::u8)
      .set_layout("NHWC")
      .set_shape({1, kSide, kSide, 3});
  steps.input().model().set_layout("NCHW");
  // On CPUs with bfloat16 it would otherwise compute in it.
  auto request =
      core.compile_model(steps.build(), "CPU", ov::hint::inference_precision(ov::element::f32))
          .create_infer_request();
  request.set_input_tensor(ov::Tensor(ov::element::u8, {1, kSide, kSide, 3}, pixels.data()));
  request.infer();
  const ov::Tensor output = request.get_output_tensor();
  std::vector<float> embedding(output.data<float>(), output.data<float>() + output.get_size());
  double squares = 0;
  for (float value : embedding) squares += static_cast<double>(value) * value;
  if (!(squares > 0) || !std::isfinite(squares)) {
    throw std::runtime_error(model_path + ": the embedding is zero or not finite");
  }
  for (float& value : embedding) value = static_cast<float>(value / std::sqrt(squares));
  return embedding;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " MODEL.onnx FACE.ppm\n";
    return 2;
  }
  try {
    for (float value : embed(argv[1], read_face(argv[2]))) std::printf("%.7f\n", value);
  } catch (const std::exception& error) {
    std::cerr << argv[0] << ": " << error.what() << '\n';
    return 2;
  }
}
