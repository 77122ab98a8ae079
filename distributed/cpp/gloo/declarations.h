// What ProcessGroupGloo.hpp names of Gloo. The wheels of torch ship that header, and Gloo's code in libtorch_cpu.so, but
// not Gloo's headers. Only pointers to these classes are used here, and Gloo itself makes the objects. The one exception
// is Store: ProcessGroupGloo.hpp derives from it, so its virtual functions must be those of Gloo, in their order.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};

namespace rendezvous {
class Store {
 public:
  virtual ~Store();
  virtual void set(const std::string&, const std::vector<char>&) = 0;
  virtual std::vector<char> get(const std::string&) = 0;
  virtual void wait(const std::vector<std::string>&) = 0;
  virtual void wait(const std::vector<std::string>&, const std::chrono::milliseconds&) = 0;
};
} // namespace rendezvous

namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
} // namespace transport
} // namespace gloo
