/* Classifies an image by the file of weights of a DigitsNet, in C alone: binary layers
   count bits, 64 signs at a time. For little-endian processors, GCC and Clang.

       cc -O3 -march=native -o predict predict.c -lm
       ./predict digits.npz image.bin    (a byte per pixel, rows first, channels last) */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int height, width, channels; float *values; } Map;
static char *archive, *archive_end;

static void *need(void *found, const char *what) {
  if (!found) fprintf(stderr, "cannot read %s\n", what), exit(1);
  return found;
}

static char *read_file(const char *path, char **end) {
  FILE *file = need(fopen(path, "rb"), path);
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  char *content = calloc(size + 1, 1);
  rewind(file);
  *end = content + fread(content, 1, size, file);
  fclose(file);
  return content;
}

static unsigned number(const char *place, int bytes) {
  unsigned value = 0;
  memcpy(&value, place, bytes);
  return value;
}

/* Returns a copy of the array LAYER/NAME, and its bytes. NumPy's archive is a zip of
   files as they are, with its directory at the end; each begins with a header. */
static void *array(const char *layer, const char *name, int *bytes) {
  char file[64];
  int length = snprintf(file, sizeof file, "%s%s.npy", layer, name);
  const char *last = archive_end - 22, *at = archive + number(last + 16, 4);
  for (int left = number(last + 10, 2); left; left--) {
    int found = number(at + 28, 2);
    if (found == length && !memcmp(at + 46, file, length)) {
      const char *entry = archive + number(at + 42, 4);
      const char *npy = entry + 30 + number(entry + 26, 2) + number(entry + 28, 2);
      int header = 10 + number(npy + 8, 2);
      *bytes = number(at + 24, 4) - header;
      return memcpy(calloc(*bytes + 1, 1), npy + header, *bytes);
    }
    at += 46 + found + number(at + 30, 2) + number(at + 32, 2);
  }
  return need(NULL, file);
}

static Map make(int height, int width, int channels) {
  return (Map){height, width, channels, calloc(height * width * channels, sizeof(float))};
}

/* Real-valued, with a bias: a 3x3 window and pads of zero, or all of a single pixel. */
static Map convolve(const char *layer, Map x, int side) {
  int bytes, pad = side / 2;
  float *kernel = array(layer, "/kernel", &bytes), *bias = array(layer, "/bias", &bytes);
  Map y = make(x.height, x.width, bytes / sizeof(float));
  for (int i = 0; i < y.height * y.width * y.channels; i++) {
    int pixel = i / y.channels, o = i % y.channels;
    y.values[i] = bias[o];
    for (int tap = 0; tap < side * side; tap++) {
      int r = pixel / x.width + tap / side - pad, c = pixel % x.width + tap % side - pad;
      for (int k = 0; k < x.channels; k++)
        if (r >= 0 && r < x.height && c >= 0 && c < x.width)
          y.values[i] += x.values[(r * x.width + c) * x.channels + k] *
                         kernel[(tap * x.channels + k) * y.channels + o];
    }
  }
  return y;
}

/* Likewise of the signs of inputs and weights: two that differ add -1, others +1. */
static Map sum_signs(const char *layer, Map x, int side) {
  int bytes, pad = side / 2, words = (x.channels + 63) / 64, taps = side * side;
  unsigned char *packed = array(layer, "/kernel", &bytes);
  Map y = make(x.height, x.width, 8 * bytes / (taps * x.channels));
  uint64_t *kernel = calloc(taps * y.channels * words, sizeof *kernel);
  for (int i = 0; i < taps * x.channels * y.channels; i++) {
    int o = i % y.channels, k = i / y.channels % x.channels, tap = i / y.channels / x.channels;
    uint64_t bit = packed[i / 8] >> i % 8 & 1;
    kernel[(tap * y.channels + o) * words + k / 64] |= bit << k % 64;
  }
  uint64_t *signs = calloc(x.height * x.width * words, sizeof *signs);
  for (int i = 0; i < x.height * x.width * x.channels; i++) {
    int pixel = i / x.channels, k = i % x.channels;
    signs[pixel * words + k / 64] |= (uint64_t)(x.values[i] >= 0) << k % 64;
  }
  for (int pixel = 0; pixel < y.height * y.width; pixel++)
    for (int tap = 0; tap < taps; tap++) {
      int r = pixel / x.width + tap / side - pad, c = pixel % x.width + tap % side - pad;
      if (r < 0 || r >= x.height || c < 0 || c >= x.width) continue; /* adds nothing */
      uint64_t *seen = signs + (r * x.width + c) * words, *row = kernel + tap * y.channels * words;
      for (int o = 0; o < y.channels; o++) {
        int differ = 0;
        for (int k = 0; k < words; k++) differ += __builtin_popcountll(seen[k] ^ *row++);
        y.values[pixel * y.channels + o] += x.channels - 2 * differ;
      }
    }
  return y;
}

static Map max_pool(Map x) { /* 2x2; a last odd row or column is left out */
  Map y = make(x.height / 2, x.width / 2, x.channels);
  for (int i = 0; i < y.height * y.width * y.channels; i++) {
    int pixel = i / y.channels, r = pixel / y.width * 2, c = pixel % y.width * 2;
    float *up = x.values + (r * x.width + c) * x.channels + i % x.channels;
    float *low = up + x.width * x.channels;
    y.values[i] = fmaxf(fmaxf(up[0], up[x.channels]), fmaxf(low[0], low[x.channels]));
  }
  return y;
}

static Map normalize(const char *layer, Map x, int is_affine) {
  int bytes;
  float *mean = array(layer, "/mean", &bytes), *var = array(layer, "/var", &bytes);
  float *scale = is_affine ? array(layer, "/scale", &bytes) : NULL;
  float *bias = is_affine ? array(layer, "/bias", &bytes) : NULL;
  for (int i = 0; i < x.height * x.width * x.channels; i++) {
    int c = i % x.channels;
    x.values[i] = (x.values[i] - mean[c]) / sqrtf(var[c] + 1e-5f);
    if (is_affine) x.values[i] = x.values[i] * scale[c] + bias[c];
  }
  return x;
}

static Map flatten(Map x) {
  return (Map){1, 1, x.height * x.width * x.channels, x.values};
}

static Map clip(Map x) {
  for (int i = 0; i < x.channels; i++) x.values[i] = fmaxf(-1, fminf(1, x.values[i]));
  return x;
}

/* Reads numbers from the JSON text about the network. */
static void numbers(const char *about, const char *key, int count, float *values) {
  char *at = need(strstr(about, key), key);
  at = strchr(at, '[');
  for (int i = 0; i < count; i++) values[i] = strtof(at + 1, &at);
}

int main(int count, char **arguments) {
  if (count != 3) return fprintf(stderr, "use: predict WEIGHTS.npz IMAGE.bin\n"), 2;
  archive = read_file(arguments[1], &archive_end);
  int bytes;
  float shape[3], mean[4], std[4];
  char *about = array("", "about", &bytes), *end;
  numbers(about, "\"input_shape\"", 3, shape);
  Map x = make(shape[0], shape[1], shape[2]);
  numbers(about, "\"mean\"", x.channels, mean);
  numbers(about, "\"std\"", x.channels, std);
  unsigned char *pixels = (unsigned char *)read_file(arguments[2], &end);
  if ((unsigned char *)end - pixels != x.height * x.width * x.channels) need(NULL, "image");
  for (int i = 0; i < x.height * x.width * x.channels; i++)
    x.values[i] = (pixels[i] / 255.0f - mean[i % x.channels]) / std[i % x.channels];
  x = normalize("norm1", convolve("conv1", x, 3), 1);
  x = normalize("norm2", max_pool(sum_signs("conv2", x, 3)), 1);
  x = normalize("norm3", max_pool(sum_signs("conv3", x, 3)), 1);
  x = normalize("norm4", sum_signs("dense4", flatten(x), 1), 1);
  x = normalize("norm5", convolve("dense5", clip(x), 1), 0);
  int best = 0;
  for (int i = 0; i < x.channels; i++) {
    printf("logit %d: %.4f\n", i, x.values[i]);
    if (x.values[i] > x.values[best]) best = i;
  }
  printf("class %d\n", best);
}
