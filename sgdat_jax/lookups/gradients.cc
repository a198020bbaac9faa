// Both gradients of a convolution of signs, by looking sums up instead of multiplying.
//
// One operand of each is -1 and +1, so four of its signs pick one of 16 sums of four
// numbers of the other operand. The sums are made once and fill one vector; a
// permutation of it by four signs for each of its lanes gives four products a lane at
// once ("method of the four Russians": Arlazarov, Dinic, Kronrod and Faradzhev, 1970).
// Every sum is added in an order that shapes alone decide, so threads change no bit.
//
// Arrays are row-major: x (batch, height, width, features), kernel (window rows, window
// columns, features, outputs), g (batch, rows, columns, outputs). Signs come 32 to a
// word along their last axis, set where negative.

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Numbers = std::unique_ptr<float[], void (*)(void*)>;
using Words = std::unique_ptr<uint32_t[], void (*)(void*)>;

constexpr int64_t kGroup = 4;     // signs that pick a sum
constexpr int64_t kWord = 32;     // signs in a word
constexpr int64_t kOutputs = 8;   // outputs of g whose sums are held in registers
constexpr int64_t kTasks = 32;    // parts of a kernel gradient, for so many threads
constexpr int64_t kTables = 384;  // that fit into the first cache
constexpr int64_t kSums = 1 << 16;  // that fit into the second

#ifdef __AVX512F__

constexpr int64_t kLanes = 16;    // numbers in a vector, and in a table
constexpr int64_t kColumns = 3;   // of the window, whose sums are held in registers
constexpr int64_t kTile = 16;     // inputs, likewise

using Vector = __m512;
using Integers = __m512i;
using Picks = __m512i;  // the last four bits of a lane pick a sum

inline Vector Zero() { return _mm512_setzero_ps(); }
inline Vector Load(const float* from) { return _mm512_load_ps(from); }
inline Vector Load(const float* from, int64_t count) {
  return _mm512_maskz_loadu_ps((1u << count) - 1, from);
}
inline void Store(float* to, Vector numbers) { _mm512_store_ps(to, numbers); }
inline void Store(float* to, Vector numbers, int64_t count) {
  _mm512_mask_storeu_ps(to, (1u << count) - 1, numbers);
}
inline Vector Add(Vector one, Vector other) { return _mm512_add_ps(one, other); }
inline Vector MultiplyAdd(Vector signs, float number, Vector sum) {
  return _mm512_fmadd_ps(signs, _mm512_set1_ps(number), sum);
}
inline Integers Load(const uint32_t* from) { return _mm512_load_si512(from); }
inline void Store(uint32_t* to, Integers words) { _mm512_store_si512(to, words); }
inline Integers Shift(Integers words, int64_t count) {
  return _mm512_srl_epi32(words, _mm_cvtsi64_si128(count));
}
// Bits of a word one to a lane, at a place in its lane.
inline Integers Spread(uint32_t word, int64_t place) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2,
                                         1, 0);
  const __m512i bits = _mm512_srlv_epi32(_mm512_set1_epi32(word), lanes);
  return _mm512_sll_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(1)),
                          _mm_cvtsi64_si128(place));
}
inline Integers Or(Integers one, Integers other) { return _mm512_or_si512(one, other); }
inline Picks PicksOf(Integers words) { return words; }
inline Vector Look(const float* table, Picks picks) {
  return _mm512_permutexvar_ps(picks, Load(table));
}

#else  // AVX2

constexpr int64_t kLanes = 8;
constexpr int64_t kColumns = 1;
constexpr int64_t kTile = 8;

using Vector = __m256;
using Integers = __m256i;
// A table holds the sums whose last number is added; the others are those of all signs
// changed.
struct Picks {
  __m256i places;
  __m256 flips;
};

inline Integers Lanes() { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
inline Integers First(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), Lanes());
}
inline Vector Zero() { return _mm256_setzero_ps(); }
inline Vector Load(const float* from) { return _mm256_load_ps(from); }
inline Vector Load(const float* from, int64_t count) {
  return _mm256_maskload_ps(from, First(count));
}
inline void Store(float* to, Vector numbers) { _mm256_store_ps(to, numbers); }
inline void Store(float* to, Vector numbers, int64_t count) {
  _mm256_maskstore_ps(to, First(count), numbers);
}
inline Vector Add(Vector one, Vector other) { return _mm256_add_ps(one, other); }
inline Vector MultiplyAdd(Vector signs, float number, Vector sum) {
  return _mm256_fmadd_ps(signs, _mm256_set1_ps(number), sum);
}
inline Integers Load(const uint32_t* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}
inline void Store(uint32_t* to, Integers words) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(to), words);
}
inline Integers Shift(Integers words, int64_t count) {
  return _mm256_srl_epi32(words, _mm_cvtsi64_si128(count));
}
inline Integers Spread(uint32_t word, int64_t place) {
  const __m256i bits = _mm256_srlv_epi32(_mm256_set1_epi32(word), Lanes());
  return _mm256_sll_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(1)),
                          _mm_cvtsi64_si128(place));
}
inline Integers Or(Integers one, Integers other) { return _mm256_or_si256(one, other); }
inline Picks PicksOf(Integers words) {
  const __m256i last = _mm256_slli_epi32(words, 32 - kGroup);
  const __m256i sign = _mm256_set1_epi32(1u << 31);
  return {_mm256_xor_si256(words, _mm256_srai_epi32(last, 31)),
          _mm256_castsi256_ps(_mm256_and_si256(last, sign))};
}
inline Vector Look(const float* table, Picks picks) {
  return _mm256_xor_ps(_mm256_permutevar8x32_ps(Load(table), picks.places),
                       picks.flips);
}

#endif

int64_t Parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

template <typename T>
std::unique_ptr<T[], void (*)(void*)> Allocate(int64_t size) {
  const size_t bytes = Parts(std::max<int64_t>(size, 1) * sizeof(T), 64) * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  return {static_cast<T*>(memory), std::free};
}

// Does tasks 0 to count - 1, on the caller's thread and those of the pool.
void ForEach(ffi::ThreadPool& pool, int64_t count,
             const std::function<void(int64_t)>& task) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  // A helper may come late, when all is done and the caller gone: it holds `shared`,
  // and touches `task` only for a number that it took, for which the caller waits.
  auto shared = std::make_shared<Shared>();
  auto work = [shared, count, &task] {
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      task(i);
      if (shared->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_all();
      }
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == count; });
}

// The sums of four numbers with each choice of signs; bit k of a place negates the k-th
// number.
struct SignedSums {
  Vector signs[kGroup];

  SignedSums() {
    alignas(64) float values[kLanes];
    for (int64_t k = 0; k < kGroup; ++k) {
      for (int64_t i = 0; i < kLanes; ++i) values[i] = (i >> k & 1) ? -1.0f : 1.0f;
      signs[k] = Load(values);
    }
  }

  Vector operator()(const float* numbers, int64_t stride, int64_t count) const {
    Vector sums = Zero();
    for (int64_t k = 0; k < count; ++k)
      sums = MultiplyAdd(signs[k], numbers[k * stride], sums);
    return sums;
  }
};

struct Shape {
  int64_t batch, height, width, features;  // of x
  int64_t rows, columns, outputs;          // of g
  int64_t window_rows, window_columns;
  int64_t stride_rows, stride_columns, pad_rows, pad_columns;
  int64_t dilation_rows, dilation_columns;

  // Of the input that a window's entry sees; may lie in the pads.
  int64_t Row(int64_t row, int64_t entry) const {
    return row * stride_rows + entry * dilation_rows - pad_rows;
  }
  int64_t Column(int64_t column, int64_t entry) const {
    return column * stride_columns + entry * dilation_columns - pad_columns;
  }
  bool HasRow(int64_t row) const { return 0 <= row && row < height; }
  bool HasColumn(int64_t column) const { return 0 <= column && column < width; }
};

// ---- Gradient to the kernel: signs of x along a row pick sums of g. ----

// Signs of x for each row, entry of the window along columns, block of features and 32
// columns of g: a word per feature, a feature per lane. Pads count as +1, which `AddPads`
// mends.
class RowsOfSigns {
 public:
  RowsOfSigns(const Shape& s, const uint32_t* x, ffi::ThreadPool& pool)
      : s_(s),
        blocks_(Parts(s.features, kLanes)),
        tiles_(Parts(s.columns, kWord)),
        words_(Allocate<uint32_t>(s.batch * s.height * RowSize())) {
    ForEach(pool, s.batch, [&](int64_t image) { Fill(x, image); });
  }

  int64_t blocks() const { return blocks_; }

  // Those of one row of an image for an entry and a block.
  uint32_t* At(int64_t image, int64_t row, int64_t entry, int64_t block) const {
    return words_.get() + (image * s_.height + row) * RowSize() +
           (entry * blocks_ + block) * tiles_ * kLanes;
  }
  int64_t RowSize() const { return s_.window_columns * blocks_ * tiles_ * kLanes; }

 private:
  void Fill(const uint32_t* x, int64_t image) {
    const int64_t in_words = Parts(s_.features, kWord);
    for (int64_t row = 0; row < s_.height; ++row)
      for (int64_t entry = 0; entry < s_.window_columns; ++entry)
        for (int64_t block = 0; block < blocks_; ++block)
          for (int64_t tile = 0; tile < tiles_; ++tile) {
            const uint32_t* pixels =
                x + (image * s_.height + row) * s_.width * in_words +
                block * kLanes / kWord;
            const int64_t shift = block * kLanes % kWord;
            const int64_t first = tile * kWord;
            const int64_t last = std::min(s_.columns, first + kWord);
            Integers words = Spread(0, 0);
            for (int64_t column = first; column < last; ++column) {
              const int64_t seen = s_.Column(column, entry);
              if (s_.HasColumn(seen))
                words = Or(words, Spread(pixels[seen * in_words] >> shift,
                                         column - first));
            }
            Store(At(image, row, entry, block) + tile * kLanes, words);
          }
  }

  const Shape& s_;
  int64_t blocks_, tiles_;
  Words words_;
};

// Adds to 8 outputs of a block of features, for some entries of the window, what rows of
// an image contribute.
template <int Entries>
void AddRows(const uint32_t* const* signs, int64_t row_size, int64_t rows,
             int64_t groups, const float* tables, float* const* sums) {
  Vector held[Entries][kOutputs];
  for (auto& entry : held)
    for (Vector& sum : entry) sum = Zero();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t first = 0; first < groups; first += kWord / kGroup) {
      Integers words[Entries];
      for (int e = 0; e < Entries; ++e)
        words[e] =
            Load(signs[e] + row * row_size + first / (kWord / kGroup) * kLanes);
      const int64_t last = std::min(groups, first + kWord / kGroup);
      for (int64_t group = first; group < last; ++group) {
        const float* table = tables + (row * groups + group) * kOutputs * kLanes;
#pragma GCC unroll 3
        for (int e = 0; e < Entries; ++e) {
          const Picks picks = PicksOf(words[e]);
#pragma GCC unroll 8
          for (int64_t o = 0; o < kOutputs; ++o)
            held[e][o] = Add(held[e][o], Look(table + o * kLanes, picks));
          words[e] = Shift(words[e], kGroup);
        }
      }
    }
  for (int e = 0; e < Entries; ++e)
    for (int64_t o = 0; o < kOutputs; ++o)
      Store(sums[e] + o * kLanes, Add(Load(sums[e] + o * kLanes), held[e][o]));
}

void AddRows(int64_t entries, const uint32_t* const* signs, int64_t row_size,
             int64_t rows, int64_t groups, const float* tables, float* const* sums) {
  switch (entries) {
    case 1: return AddRows<1>(signs, row_size, rows, groups, tables, sums);
    case 2: return AddRows<2>(signs, row_size, rows, groups, tables, sums);
    default: return AddRows<3>(signs, row_size, rows, groups, tables, sums);
  }
}

class KernelGradient {
 public:
  KernelGradient(const Shape& s, const uint32_t* x, const float* g, float* out,
                 ffi::ThreadPool& pool)
      : s_(s),
        g_(g),
        out_(out),
        signs_(s, x, pool),
        out_blocks_(Parts(s.outputs, kOutputs)),
        groups_(Parts(s.columns, kGroup)),
        piece_size_(s.window_rows * s.window_columns * signs_.blocks() * kOutputs *
                    kLanes),
        // So many blocks of outputs are made of an image while it is in a cache.
        together_(std::clamp<int64_t>(kSums / piece_size_, 1, out_blocks_)),
        pieces_(std::clamp<int64_t>(Parts(kTasks, Parts(out_blocks_, together_)), 1,
                                    s.batch)),
        sums_(Allocate<float>(out_blocks_ * pieces_ * piece_size_)) {
    ForEach(pool, Parts(out_blocks_, together_) * pieces_, [&](int64_t task) {
      AddImages(task / pieces_ * together_, task % pieces_);
    });
    ForEach(pool, out_blocks_, [&](int64_t block) { Finish(block); });
  }

 private:
  float* Sums(int64_t out_block, int64_t piece) {
    return &sums_[(out_block * pieces_ + piece) * piece_size_];
  }

  void AddImages(int64_t first, int64_t piece) {
    const int64_t end = std::min(out_blocks_, first + together_);
    for (int64_t block = first; block < end; ++block)
      std::memset(Sums(block, piece), 0, piece_size_ * sizeof(float));
    const int64_t most = std::max<int64_t>(1, kTables / (groups_ * kOutputs));
    Numbers tables =
        Allocate<float>(std::min(most, s_.rows) * groups_ * kOutputs * kLanes);
    const int64_t last_image = s_.batch * (piece + 1) / pieces_;
    for (int64_t image = s_.batch * piece / pieces_; image < last_image; ++image)
      for (int64_t row = 0; row < s_.rows; row += most)
        for (int64_t block = first; block < end; ++block) {
          const int64_t last_row = std::min(s_.rows, row + most);
          FillTables(block, image, row, last_row, tables.get());
          for (int64_t entry = 0; entry < s_.window_rows; ++entry)
            AddWindowRow(image, row, last_row, entry, tables.get(), Sums(block, piece));
        }
  }

  void FillTables(int64_t out_block, int64_t image, int64_t row, int64_t end,
                  float* tables) const {
    const SignedSums signed_sums;
    const int64_t first = out_block * kOutputs;
    for (; row < end; ++row)
      for (int64_t group = 0; group < groups_; ++group)
        for (int64_t o = 0; o < kOutputs; ++o, tables += kLanes) {
          const int64_t column = group * kGroup;
          const float* numbers =
              g_ + ((image * s_.rows + row) * s_.columns + column) * s_.outputs +
              first + o;
          const int64_t count =
              first + o < s_.outputs ? std::min(kGroup, s_.columns - column) : 0;
          Store(tables, signed_sums(numbers, s_.outputs, count));
        }
  }

  void AddWindowRow(int64_t image, int64_t row, int64_t end, int64_t entry,
                    const float* tables, float* sums) const {
    const int64_t table_row = groups_ * kOutputs * kLanes;
    while (row < end && !s_.HasRow(s_.Row(row, entry))) ++row, tables += table_row;
    while (row < end && !s_.HasRow(s_.Row(end - 1, entry))) --end;
    if (row >= end) return;
    const int64_t row_size = s_.stride_rows * signs_.RowSize();
    for (int64_t first = 0; first < s_.window_columns; first += kColumns) {
      const int64_t entries = std::min(kColumns, s_.window_columns - first);
      for (int64_t block = 0; block < signs_.blocks(); ++block) {
        const uint32_t* signs[kColumns];
        float* to[kColumns];
        for (int64_t e = 0; e < entries; ++e) {
          signs[e] = signs_.At(image, s_.Row(row, entry), first + e, block);
          to[e] = sums + Place(entry, first + e, block);
        }
        AddRows(entries, signs, row_size, end - row, groups_, tables, to);
      }
    }
  }

  int64_t Place(int64_t row_entry, int64_t column_entry, int64_t block) const {
    return ((row_entry * s_.window_columns + column_entry) * signs_.blocks() + block) *
           kOutputs * kLanes;
  }

  void Finish(int64_t out_block) {
    float* sums = Sums(out_block, 0);
    for (int64_t piece = 1; piece < pieces_; ++piece)
      for (int64_t i = 0; i < piece_size_; ++i) sums[i] += Sums(out_block, piece)[i];
    const int64_t first = out_block * kOutputs;
    const int64_t count = std::min(kOutputs, s_.outputs - first);
    for (int64_t r = 0; r < s_.window_rows; ++r)
      for (int64_t c = 0; c < s_.window_columns; ++c) {
        float pads[kOutputs] = {};
        AddPads(r, c, first, count, pads);
        const int64_t entry = r * s_.window_columns + c;
        for (int64_t f = 0; f < s_.features; ++f)
          for (int64_t o = 0; o < count; ++o)
            out_[(entry * s_.features + f) * s_.outputs + first + o] =
                sums[Place(r, c, f / kLanes) + o * kLanes + f % kLanes] - pads[o];
      }
  }

  // Adds up what pads at both ends of rows, taken for +1, contribute to some outputs.
  void AddPads(int64_t row_entry, int64_t column_entry, int64_t first, int64_t count,
               float* pads) const {
    for (int64_t column = 0; column < s_.columns; ++column) {
      if (s_.HasColumn(s_.Column(column, column_entry))) continue;
      for (int64_t image = 0; image < s_.batch; ++image)
        for (int64_t row = 0; row < s_.rows; ++row) {
          if (!s_.HasRow(s_.Row(row, row_entry))) continue;
          const float* numbers =
              g_ + ((image * s_.rows + row) * s_.columns + column) * s_.outputs + first;
          for (int64_t o = 0; o < count; ++o) pads[o] += numbers[o];
        }
    }
  }

  const Shape& s_;
  const float* g_;
  float* out_;
  const RowsOfSigns signs_;
  int64_t out_blocks_, groups_, piece_size_, together_, pieces_;
  Numbers sums_;
};

// ---- Gradient to the inputs: signs of the kernel along outputs pick sums of g. ----

// Signs of the kernel for each entry of the window, word of outputs and block of
// features: a word per feature, a feature per lane.
class KernelSigns {
 public:
  KernelSigns(const Shape& s, const uint32_t* kernel)
      : s_(s),
        in_words_(Parts(s.outputs, kWord)),
        blocks_(Parts(s.features, kLanes)),
        words_(Allocate<uint32_t>(s.window_rows * s.window_columns * in_words_ *
                                  blocks_ * kLanes)) {
    for (int64_t entry = 0; entry < s.window_rows * s.window_columns; ++entry)
      for (int64_t word = 0; word < in_words_; ++word)
        for (int64_t f = 0; f < blocks_ * kLanes; ++f)
          words_[((entry * in_words_ + word) * blocks_) * kLanes + f] =
              f < s.features ? kernel[(entry * s.features + f) * in_words_ + word] : 0;
  }

  int64_t blocks() const { return blocks_; }

  Picks At(int64_t row_entry, int64_t column_entry, int64_t group,
           int64_t block) const {
    const int64_t entry = row_entry * s_.window_columns + column_entry;
    const int64_t word = group / (kWord / kGroup);
    const uint32_t* words =
        &words_[((entry * in_words_ + word) * blocks_ + block) * kLanes];
    return PicksOf(Shift(Load(words), group % (kWord / kGroup) * kGroup));
  }

 private:
  const Shape& s_;
  int64_t in_words_, blocks_;
  Words words_;
};

class InputGradient {
 public:
  InputGradient(const Shape& s, const uint32_t* kernel, const float* g, float* out,
                ffi::ThreadPool& pool)
      : s_(s),
        signs_(s, kernel),
        g_(g),
        out_(out),
        groups_(Parts(s.outputs, kGroup)),
        tile_(s.width >= kTile ? kTile : s.width >= 8 ? 8 : 4),
        tiles_(Parts(s.width, tile_)),
        before_((s.window_columns - 1) * s.dilation_columns),
        table_columns_(tiles_ * tile_ + before_),
        // Blocks of features share the tables of the rows that a window sees.
        most_(std::clamp<int64_t>(kTables / (s.window_rows * table_columns_), 1,
                                  groups_)) {
    ForEach(pool, s.batch, [&](int64_t image) { AddImage(image); });
  }

 private:
  void AddImage(int64_t image) {
    Numbers tables = Allocate<float>(s_.rows * most_ * table_columns_ * kLanes);
    for (int64_t group = 0; group < groups_; group += most_) {
      const int64_t end = std::min(groups_, group + most_);
      FillTables(image, group, end, tables.get());
      for (int64_t row = 0; row < s_.height; ++row)
        for (int64_t block = 0; block < signs_.blocks(); ++block)
          for (int64_t tile = 0; tile < tiles_; ++tile)
            AddTile(image, row, block, tile, group, end, tables.get());
    }
  }

  // Of g for one image, (rows, groups, columns with zeros around them).
  void FillTables(int64_t image, int64_t first, int64_t end, float* tables) const {
    const SignedSums signed_sums;
    for (int64_t row = 0; row < s_.rows; ++row)
      for (int64_t group = first; group < end; ++group)
        for (int64_t i = 0; i < table_columns_; ++i, tables += kLanes) {
          const int64_t column = i + s_.pad_columns - before_;
          const bool is_inside = 0 <= column && column < s_.columns;
          const float* numbers =
              g_ + ((image * s_.rows + row) * s_.columns + (is_inside ? column : 0)) *
                       s_.outputs + group * kGroup;
          const int64_t count =
              is_inside ? std::min(kGroup, s_.outputs - group * kGroup) : 0;
          Store(tables, signed_sums(numbers, 1, count));
        }
  }

  void AddTile(int64_t image, int64_t row, int64_t block, int64_t tile, int64_t first,
               int64_t end, const float* tables) {
    if (tile_ == kTile) AddTile<kTile>(image, row, block, tile, first, end, tables);
    else if (tile_ == 8) AddTile<8>(image, row, block, tile, first, end, tables);
    else AddTile<4>(image, row, block, tile, first, end, tables);
  }

  // Adds to a block of features of some inputs of a row what groups of outputs
  // contribute.
  template <int Size>
  void AddTile(int64_t image, int64_t row, int64_t block, int64_t tile, int64_t first,
               int64_t end, const float* tables) {
    const int64_t column = tile * Size;
    const int64_t count = std::min<int64_t>(Size, s_.width - column);
    const int64_t features = std::min(kLanes, s_.features - block * kLanes);
    float* to = out_ + ((image * s_.height + row) * s_.width + column) * s_.features +
                block * kLanes;
    Vector sums[Size];
    for (int64_t i = 0; i < Size; ++i)
      sums[i] = first && i < count ? Load(to + i * s_.features, features) : Zero();
    for (int64_t r = 0; r < s_.window_rows; ++r) {
      const int64_t seen = row + s_.pad_rows - r * s_.dilation_rows;
      if (seen < 0 || seen >= s_.rows) continue;
      for (int64_t group = first; group < end; ++group) {
        const float* table =
            tables + ((seen * (end - first) + group - first) * table_columns_ + column +
                      before_) * kLanes;
        for (int64_t c = 0; c < s_.window_columns; ++c) {
          const Picks picks = signs_.At(r, c, group, block);
          const float* at = table - c * s_.dilation_columns * kLanes;
#pragma GCC unroll 16
          for (int64_t i = 0; i < Size; ++i)
            sums[i] = Add(sums[i], Look(at + i * kLanes, picks));
        }
      }
    }
    for (int64_t i = 0; i < count; ++i)
      Store(to + i * s_.features, sums[i], features);
  }

  const Shape& s_;
  const KernelSigns signs_;
  const float* g_;
  float* out_;
  int64_t groups_, tile_, tiles_, before_, table_columns_, most_;
};

// ---- What XLA calls. ----

using Pair = ffi::Span<const int64_t>;
using Signs = ffi::Buffer<ffi::U32, 4>;
using Array = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::Result<Array>;

Shape ShapeOf(ffi::Span<const int64_t> x, int64_t features,
              ffi::Span<const int64_t> g, Pair window, Pair strides, Pair pads,
              Pair dilation) {
  return {x[0],       x[1],       x[2],        features,   g[1],
          g[2],       g[3],       window[0],   window[1],  strides[0],
          strides[1], pads[0],    pads[1],     dilation[0], dilation[1]};
}

ffi::Error ToKernel(ffi::ThreadPool pool, Signs x, Array g, Result out, Pair strides,
                    Pair pads, Pair dilation) {
  const auto window = out->dimensions();
  const Shape shape = ShapeOf(x.dimensions(), window[2], g.dimensions(),
                              window.first(2), strides, pads, dilation);
  KernelGradient(shape, x.typed_data(), g.typed_data(), out->typed_data(), pool);
  return ffi::Error::Success();
}

ffi::Error ToInputs(ffi::ThreadPool pool, Signs kernel, Array g, Result out, Pair pads,
                    Pair dilation) {
  const int64_t strides[] = {1, 1};
  const auto x = out->dimensions();
  const Shape shape =
      ShapeOf(x, x[3], g.dimensions(), kernel.dimensions().first(2), Pair(strides, 2),
              pads, dilation);
  InputGradient(shape, kernel.typed_data(), g.typed_data(), out->typed_data(), pool);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(sgdat_jax_kernel_gradient, ToKernel,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Signs>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<Pair>("strides")
                                  .Attr<Pair>("pads")
                                  .Attr<Pair>("dilation"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(sgdat_jax_input_gradient, ToInputs,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Signs>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<Pair>("pads")
                                  .Attr<Pair>("dilation"));
