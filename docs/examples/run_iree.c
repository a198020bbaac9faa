/* Runs a module that `sgdat-jax export --to iree` wrote on an image, by IREE's runtime.

       ./run_iree net.vmfb image.bin 8 8 1          (height, width and channels)
       ./run_iree net.vmfb image.bin 8 8 1 10000    calls it so often, tells the time

   Run with IREE's runtime 3.12.0rc20260822, modules of iree-base-compiler 3.13. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define IREE_ALLOCATOR_SYSTEM_CTL iree_allocator_libc_ctl /* the default of its build */
#include "iree/runtime/api.h"

#define FUNCTION "jit_network_of.main"
#define WAIT IREE_HAL_TRANSFER_BUFFER_FLAG_DEFAULT, iree_infinite_timeout()

static double microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
  return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b);
}

int main(int count, char **arguments) {
  size_t calls = count > 6 ? strtoul(arguments[6], NULL, 10) : 1;
  if (count < 6 || !calls)
    return fprintf(stderr, "use: run_iree MODULE IMAGE H W C [CALLS]\n"), 2;
  iree_hal_dim_t shape[4] = {1};
  for (int i = 1; i < 4; i++) shape[i] = strtoul(arguments[2 + i], NULL, 10);
  size_t bytes = shape[1] * shape[2] * shape[3], classes = 0, best = 0;
  void *pixels = malloc(bytes);
  FILE *file = fopen(arguments[2], "rb");
  if (!file || fread(pixels, 1, bytes, file) != bytes)
    return fprintf(stderr, "%s must have %zu bytes\n", arguments[2], bytes), 1;
  fclose(file);

  iree_runtime_instance_options_t options;
  iree_runtime_instance_options_initialize(&options);
  iree_runtime_instance_options_use_all_available_drivers(&options);
  iree_allocator_t host = iree_allocator_system();
  iree_runtime_instance_t *instance = NULL;
  IREE_CHECK_OK(iree_runtime_instance_create(&options, host, &instance));
  iree_hal_device_t *device = NULL; /* that computes in this thread */
  IREE_CHECK_OK(iree_runtime_instance_try_create_default_device(
      instance, iree_make_cstring_view("local-sync"), &device));
  iree_runtime_session_options_t of_session;
  iree_runtime_session_options_initialize(&of_session);
  iree_runtime_session_t *session = NULL;
  IREE_CHECK_OK(iree_runtime_session_create_with_device(instance, &of_session, device,
                                                        host, &session));
  IREE_CHECK_OK(
      iree_runtime_session_append_bytecode_module_from_file(session, arguments[1]));

  iree_runtime_call_t call; /* kept for many images, as are its input and the session */
  IREE_CHECK_OK(iree_runtime_call_initialize_by_name(
      session, iree_make_cstring_view(FUNCTION), &call));
  iree_hal_buffer_params_t params = {.type = IREE_HAL_MEMORY_TYPE_DEVICE_LOCAL,
                                     .access = IREE_HAL_MEMORY_ACCESS_ALL,
                                     .usage = IREE_HAL_BUFFER_USAGE_DEFAULT};
  iree_hal_buffer_view_t *image = NULL, *result = NULL;
  IREE_CHECK_OK(iree_hal_buffer_view_allocate_buffer_copy(
      device, iree_runtime_session_device_allocator(session), 4, shape,
      IREE_HAL_ELEMENT_TYPE_INT_8, IREE_HAL_ENCODING_TYPE_DENSE_ROW_MAJOR, params,
      iree_make_const_byte_span(pixels, bytes), &image));
  IREE_CHECK_OK(iree_runtime_call_inputs_push_back_buffer_view(&call, image));

  float *logits = NULL;
  double *times = malloc(calls * sizeof(double));
  for (size_t i = 0; i < calls; i++) { /* from pixels to logits */
    double start = microseconds();
    IREE_CHECK_OK(iree_hal_device_transfer_h2d(
        device, pixels, iree_hal_buffer_view_buffer(image), 0, bytes, WAIT));
    IREE_CHECK_OK(iree_runtime_call_invoke(&call, 0));
    IREE_CHECK_OK(iree_runtime_call_outputs_pop_front_buffer_view(&call, &result));
    classes = iree_hal_buffer_view_element_count(result);
    size_t size = classes * sizeof(float);
    if (!logits) logits = malloc(size);
    IREE_CHECK_OK(iree_hal_device_transfer_d2h(
        device, iree_hal_buffer_view_buffer(result), 0, logits, size, WAIT));
    iree_hal_buffer_view_release(result);
    times[i] = microseconds() - start;
  }
  for (size_t i = 0; i < classes; i++) {
    printf("logit %zu: %.4f\n", i, logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  printf("class %zu\n", best);
  qsort(times, calls, sizeof(double), compare);
  if (calls > 1) printf("%.1f microseconds a call (median)\n", times[calls / 2]);

  iree_hal_buffer_view_release(image);
  iree_runtime_call_deinitialize(&call);
  iree_runtime_session_release(session);
  iree_hal_device_release(device);
  iree_runtime_instance_release(instance);
  return free(times), free(logits), free(pixels), 0;
}
