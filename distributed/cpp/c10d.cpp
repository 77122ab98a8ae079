// The C interface of c10d that src/raw.rs declares. Objects are handed out as pointers, which the caller frees with the
// function of their type. A function that fails returns null or false, and c10d_error() says why, on the same thread.
#define USE_C10D_GLOO
#include <c10/util/Flags.h>
#include <c10/util/Logging.h>
#include <future>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

using Milliseconds = std::chrono::milliseconds;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

C10_DECLARE_int(caffe2_log_level);

struct ReducerHandle {
  std::unique_ptr<c10d::Reducer> reducer;
  bool find_unused;
};

namespace {

thread_local std::string last_error;

// How long after its limit a call may still return by itself.
constexpr int64_t kGraceMs = 3000;

// c10d logs its errors, some with a backtrace, before it throws them. While such a guard exists, only what ends the
// process is logged, unless the environment asks for more.
class QuietLogs {
 public:
  QuietLogs() {
    std::lock_guard lock(mutex);
    if (count++ == 0) {
      level = FLAGS_caffe2_log_level;
      FLAGS_caffe2_log_level = std::getenv("TORCH_CPP_LOG_LEVEL") ? level : kFatal;
    }
  }
  ~QuietLogs() {
    std::lock_guard lock(mutex);
    if (--count == 0) {
      FLAGS_caffe2_log_level = level;
    }
  }

 private:
  static constexpr int kFatal = 3;
  static inline std::mutex mutex;
  static inline int count = 0;
  static inline int level = 0;
};

// No exception may reach Rust.
template <class F>
auto catching(F body) -> decltype(body()) {
  QuietLogs quiet;
  try {
    return body();
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown C++ exception";
  }
  return {};
}

// c10d waits without limit for a store that does not answer, because its process hangs. So this runs on a thread of its
// own, which is abandoned after some time; `body` owns all that it uses.
template <class F>
auto bounded(int64_t limit_ms, F body) -> decltype(body()) {
  std::packaged_task<decltype(body())()> task([body = std::move(body)]() mutable {
    QuietLogs quiet; // for as long as the thread runs
    return body();
  });
  auto result = task.get_future();
  std::thread(std::move(task)).detach();
  TORCH_CHECK(
      result.wait_for(Milliseconds(limit_ms)) == std::future_status::ready, "the store has not answered in ", limit_ms,
      " ms");
  return result.get();
}

BackendPtr backend(const GroupPtr* group) {
  return (*group)->getBackend(c10::DeviceType::CPU);
}

// Gloo divides the first dimension among processes, so shapes would matter.
at::Tensor flat(const at::Tensor* tensor) {
  return tensor->detach().view({-1});
}

WorkPtr* handle(WorkPtr work) {
  return new WorkPtr(std::move(work));
}

c10d::ReduceOp reduce_op(bool max) {
  return max ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
}

} // namespace

extern "C" {

const char* c10d_error() {
  return last_error.c_str();
}

// A client of the store at an address, and the store itself if `serve` is set. This call and those below end after
// their limit.
StorePtr* c10d_store_new(const char* host, uint16_t port, const char* prefix, bool serve, int64_t limit_ms) {
  return catching([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve;
    options.waitWorkers = false;
    options.multiTenant = true;
    options.timeout = Milliseconds(limit_ms);
    return bounded(limit_ms + kGraceMs, [=, host = std::string(host), prefix = std::string(prefix)] {
      auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
      return new StorePtr(c10::make_intrusive<c10d::PrefixStore>(prefix, store));
    });
  });
}

bool c10d_store_set(StorePtr* store, const char* key, const char* value, int64_t limit_ms) {
  return catching([&] {
    return bounded(limit_ms, [store = *store, key = std::string(key), value = std::string(value)] {
      store->set(key, value);
      return true;
    });
  });
}

// Sets a number unless the key exists, and reads it.
bool c10d_store_agree(StorePtr* store, const char* key, int64_t value, int64_t* agreed, int64_t limit_ms) {
  return catching([&] {
    auto text = bounded(limit_ms, [store = *store, key = std::string(key), value = std::to_string(value)] {
      return store->compareSet(key, std::string(), value);
    });
    *agreed = std::stoll(text);
    return true;
  });
}

bool c10d_store_add(StorePtr* store, const char* key, int64_t value, int64_t* sum, int64_t limit_ms) {
  return catching([&] {
    *sum = bounded(limit_ms, [store = *store, key = std::string(key), value] { return store->add(key, value); });
    return true;
  });
}

// Whether the key exists, now or before the limit.
bool c10d_store_wait(StorePtr* store, const char* key, bool* exists, int64_t limit_ms) {
  return catching([&] {
    *exists = bounded(limit_ms + kGraceMs, [store = *store, key = std::string(key), limit_ms] {
      try {
        store->wait({key}, Milliseconds(limit_ms));
        return true;
      } catch (const c10::DistStoreError&) {
        return false;
      }
    });
    return true;
  });
}

void c10d_store_free(StorePtr* store) {
  delete store;
}

GroupPtr* c10d_group_new(StorePtr* store, int rank, int size, int64_t limit_ms) {
  return catching([&] {
    Milliseconds timeout(limit_ms);
    BackendPtr gloo = bounded(limit_ms + kGraceMs, [=, store = *store]() -> BackendPtr {
      return c10::make_intrusive<c10d::ProcessGroupGloo>(
          c10::make_intrusive<c10d::PrefixStore>("gloo", store), rank, size,
          c10d::ProcessGroupGloo::Options::create_default(timeout));
    });
    using c10d::ProcessGroup;
    auto group = c10::make_intrusive<ProcessGroup>(*store, rank, size);
    group->setBackend(c10::DeviceType::CPU, ProcessGroup::BackendType::GLOO, gloo);
    group->setDefaultBackend(ProcessGroup::BackendType::GLOO);
    return new GroupPtr(std::move(group));
  });
}

void c10d_group_free(GroupPtr* group) {
  catching([&] {
    // Gloo's destructor waits for all operations, even for one that hangs.
    return bounded(kGraceMs, [group] {
      delete group;
      return true;
    });
  });
}

WorkPtr* c10d_all_reduce(GroupPtr* group, at::Tensor* tensor, bool max) {
  return catching([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(max);
    return handle(backend(group)->allreduce(tensors, options));
  });
}

WorkPtr* c10d_broadcast(GroupPtr* group, at::Tensor* tensor, int root) {
  return catching([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return handle(backend(group)->broadcast(tensors, options));
  });
}

WorkPtr* c10d_all_gather(GroupPtr* group, at::Tensor* output, at::Tensor* input) {
  return catching([&] {
    auto flat_output = flat(output), flat_input = flat(input);
    return handle(backend(group)->_allgather_base(flat_output, flat_input));
  });
}

WorkPtr* c10d_reduce_scatter(GroupPtr* group, at::Tensor* output, at::Tensor* input, bool max) {
  return catching([&] {
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce_op(max);
    auto flat_output = flat(output), flat_input = flat(input);
    return handle(backend(group)->_reduce_scatter_base(flat_output, flat_input, options));
  });
}

WorkPtr* c10d_send(GroupPtr* group, at::Tensor* tensor, int peer, int tag) {
  return catching([&] {
    std::vector<at::Tensor> tensors{*tensor};
    return handle(backend(group)->send(tensors, peer, tag));
  });
}

WorkPtr* c10d_receive(GroupPtr* group, at::Tensor* tensor, int peer, int tag) {
  return catching([&] {
    std::vector<at::Tensor> tensors{*tensor};
    return handle(backend(group)->recv(tensors, peer, tag));
  });
}

// Gloo limits each message of an operation; this limits the whole.
bool c10d_work_wait(WorkPtr* work) {
  return catching([&] {
    auto async = dynamic_cast<c10d::ProcessGroupGloo::AsyncWork*>(work->get());
    auto limit = async ? async->getTimeout() + Milliseconds(kGraceMs) : kNoTimeout;
    TORCH_CHECK((*work)->wait(limit), "the operation was aborted");
    return true;
  });
}

void c10d_work_free(WorkPtr* work) {
  delete work;
}

// Checks that all ranks have the same parameters, and gives all of them the values of rank 0.
ReducerHandle* c10d_reducer_new(
    GroupPtr* group, at::Tensor** parameters, size_t count, size_t bucket_bytes, bool find_unused) {
  return catching([&] {
    std::vector<at::Tensor> tensors;
    for (size_t i = 0; i < count; i++) {
      tensors.push_back(*parameters[i]);
    }
    c10d::verify_params_across_processes(*group, tensors, std::nullopt);
    {
      at::NoGradGuard no_grad;
      c10d::broadcast_coalesced(*group, tensors, size_t(250) << 20, 0);
    }
    // The gradients of the last parameters come first, in a small bucket, so that communication begins early.
    auto first = std::min(bucket_bytes, size_t(c10d::kDefaultFirstBucketBytes));
    std::vector<bool> sparse(count, false);
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(tensors, {first, bucket_bytes}, sparse));
    std::reverse(buckets.begin(), buckets.end());
    // Gradients are not views of the buckets: the optimizers of tch detach gradients, which is an error for views.
    auto reducer = std::make_unique<c10d::Reducer>(
        std::move(tensors), std::move(buckets), *group, sparse, int64_t(bucket_bytes), find_unused,
        /*gradient_as_bucket_view=*/false, std::unordered_map<size_t, std::string>(), int64_t(first),
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>());
    return new ReducerHandle{std::move(reducer), find_unused};
  });
}

// The next backward pass reduces gradients.
bool c10d_reducer_arm(ReducerHandle* handle, at::Tensor* loss) {
  return catching([&] {
    handle->reducer->prepare_for_forward();
    // Once, after the first pass: buckets in the order in which gradients came.
    handle->reducer->rebuild_buckets();
    std::vector<at::Tensor> outputs;
    if (handle->find_unused) {
      outputs.push_back(*loss);
    }
    handle->reducer->prepare_for_backward(outputs);
    return true;
  });
}

bool c10d_reducer_check(ReducerHandle* handle) {
  return catching([&] {
    handle->reducer->check_finalized();
    return true;
  });
}

void c10d_reducer_free(ReducerHandle* handle) {
  catching([&] {
    delete handle;
    return true;
  });
}

} // extern "C"
