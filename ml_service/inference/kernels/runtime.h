// What our operators need of ONNX Runtime's C interface.
//
// The struct that describes an operator, and a few functions of its table by their place in it: both only ever grow.
#pragma once
#include <cstddef>
#include <cstdint>

namespace runtime {

struct Status;
struct Value;
struct Shape;
struct Info;
struct Context;
struct Domain;
struct Options;
using Table = const void* const*;

struct Base {
  Table (*table)(uint32_t version);
  const char* (*version)();
};

constexpr uint32_t kVersion = 17;  // the first whose table has ParallelFor
constexpr int kInvalidArgument = 2;
enum Type : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7 };
enum Presence : int { kRequired = 0, kOptional = 1 };

struct Operator {
  uint32_t version;
  void* (*create_v1)(const Operator*, Table, const Info*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*input_count)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*output_count)(const Operator*);
  void (*compute_v1)(void*, Context*);
  void (*destroy)(void*);
  int (*input_presence)(const Operator*, size_t);
  int (*output_presence)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t);
  int (*variadic_input_arity)(const Operator*);
  int (*variadic_input_homogeneity)(const Operator*);
  int (*variadic_output_arity)(const Operator*);
  int (*variadic_output_homogeneity)(const Operator*);
  Status* (*create)(const Operator*, Table, const Info*, void**);
  Status* (*compute)(void*, Context*);
  Status* (*infer_shape)(const Operator*, void*);
  int (*start_version)(const Operator*);
  int (*end_version)(const Operator*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};

class Api {
 public:
  explicit Api(Table table) : table_(table) {}

  Status* error(const char* message) const { return call<Status*>(0, kInvalidArgument, message); }
  Status* create_domain(const char* name, Domain** domain) const { return call<Status*>(26, name, domain); }
  Status* add(Domain* domain, const Operator* op) const { return call<Status*>(27, domain, op); }
  Status* add(Options* options, Domain* domain) const { return call<Status*>(28, options, domain); }

  int64_t integer(const Info* info, const char* name, int64_t otherwise) const {
    int64_t value = otherwise;
    release(call<Status*>(86, info, name, &value));
    return value;
  }
  float number(const Info* info, const char* name, float otherwise) const {
    float value = otherwise;
    release(call<Status*>(85, info, name, &value));
    return value;
  }

  const Value* input(const Context* context, size_t index) const {
    const Value* value = nullptr;
    release(call<Status*>(90, context, index, &value));
    return value;
  }
  Value* output(Context* context, const int64_t* sizes, size_t count) const {
    Value* value = nullptr;
    release(call<Status*>(91, context, size_t{0}, sizes, count, &value));
    return value;
  }
  template <class T>
  T* data(const Value* value) const {
    void* pointer = nullptr;
    if (value) release(call<Status*>(51, const_cast<Value*>(value), &pointer));
    return static_cast<T*>(pointer);
  }
  // Fills at most `most` sizes; returns how many axes there are.
  size_t sizes(const Value* value, int64_t* sizes, size_t most) const {
    Shape* shape = nullptr;
    size_t count = 0;
    release(call<Status*>(65, value, &shape));
    if (!shape) return 0;
    release(call<Status*>(61, shape, &count));
    release(call<Status*>(62, shape, sizes, count < most ? count : most));
    call<void>(99, shape);
    return count;
  }
  // Calls work(data, i) for i < count on the session's own threads; returns when all are done.
  void parallel(const Context* context, void (*work)(void*, size_t), size_t count, void* data) const {
    if (count == 1) return work(data, 0);
    release(call<Status*>(274, context, work, count, size_t{0}, data));
  }

 private:
  template <class Result, class... Arguments>
  Result call(size_t place, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(table_[place]))(arguments...);
  }
  void release(Status* status) const {
    if (status) call<void>(93, status);
  }
  Table table_;
};

template <class Body>
void parallel(const Api& api, const Context* context, size_t count, Body& body) {
  api.parallel(context, [](void* data, size_t index) { (*static_cast<Body*>(data))(index); }, count, &body);
}

}  // namespace runtime
