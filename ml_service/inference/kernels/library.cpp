// Registers the operators with ONNX Runtime, which loads this as a library of custom operators; scores of its logits.
#include <new>

#include "attention_kernel.h"
#include "likelihood.h"
#include "row_product.h"

namespace {

using namespace runtime;

template <class Kernel, const int* kTypes, size_t kCount, bool (*kIsOptional)(size_t)>
Operator describe(const char* (*name)(const Operator*)) {
  Operator op{};
  op.version = kVersion;
  op.name = name;
  op.provider = [](const Operator*) -> const char* { return nullptr; };
  op.input_type = [](const Operator*, size_t i) { return kTypes[i]; };
  op.input_count = [](const Operator*) { return kCount; };
  op.output_type = [](const Operator*, size_t) -> int { return kFloat; };
  op.output_count = [](const Operator*) -> size_t { return 1; };
  op.input_presence = [](const Operator*, size_t i) -> int { return kIsOptional(i) ? kOptional : kRequired; };
  op.output_presence = [](const Operator*, size_t) -> int { return kRequired; };
  op.input_memory = [](const Operator*, size_t) { return 0; };
  op.variadic_input_arity = op.variadic_input_homogeneity = [](const Operator*) { return 0; };
  op.variadic_output_arity = op.variadic_output_homogeneity = [](const Operator*) { return 0; };
  op.create = [](const Operator*, Table table, const Info* info, void** kernel) -> Status* {
    *kernel = new (std::nothrow) Kernel(table, info);
    return *kernel ? nullptr : Api(table).error("out of memory");
  };
  op.compute = [](void* kernel, Context* context) { return static_cast<Kernel*>(kernel)->compute(context); };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(Options* options, const Base* base) {
  static const Operator kOperators[] = {
      describe<row_product::Kernel, row_product::kInputTypes, row_product::kInputs, row_product::is_optional>(
          [](const Operator*) { return "RowProduct"; }),
      describe<attention::Kernel, attention::kInputTypes, attention::kInputs, attention::is_optional>(
          [](const Operator*) { return "CachedAttention"; }),
  };
  const Table table = base->table(kVersion);
  if (!table) return Api(base->table(1)).error("ml_service's operators need ONNX Runtime 1.17 or newer");
  const Api api(table);
  Domain* domain = nullptr;  // ONNX Runtime keeps using it; it lives as long as the process
  if (Status* status = api.create_domain("ml_service", &domain)) return status;
  for (const Operator& op : kOperators)
    if (Status* status = api.add(domain, &op)) return status;
  return api.add(options, domain);
}

// The negative log-likelihood of each row's target; `bests` are the places of the largest logits.
extern "C" __attribute__((visibility("default"))) void ml_service_nats(const float* logits, int64_t rows, int64_t width,
                                                                       const int64_t* targets, const int64_t* bests,
                                                                       double* nats) {
  for (int64_t row = 0; row < rows; ++row, logits += width)
    nats[row] = likelihood::nats(logits, width, logits[bests[row]], logits[targets[row]]);
}
