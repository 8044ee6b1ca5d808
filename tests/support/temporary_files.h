// A fixture with an empty folder of its own.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace fusion_attention::testing {

class TemporaryFiles : public ::testing::Test {
 protected:
  explicit TemporaryFiles(const std::string& name)
      : root_(std::filesystem::path(::testing::TempDir()) / ("fusion_attention_" + name)) {}

  void SetUp() override { std::filesystem::remove_all(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  std::string root() const { return root_.string(); }

 private:
  const std::filesystem::path root_;
};

}  // namespace fusion_attention::testing
