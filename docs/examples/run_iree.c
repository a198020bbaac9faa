/* Runs a module that `sgdat-jax export --to iree` wrote on one image, by IREE's runtime.

       ./run_iree net.vmfb image.bin 8 8 1    (height, width and channels) */
#include <stdio.h>
#include <stdlib.h>

#include "iree/runtime/api.h"

#define FUNCTION "jit_network_of.main"

/* Returns the bytes of an image; the program ends if the file has fewer. */
static void *read_image(const char *path, size_t bytes) {
  void *pixels = malloc(bytes);
  FILE *file = fopen(path, "rb");
  if (!file || fread(pixels, 1, bytes, file) != bytes) {
    fprintf(stderr, "%s must have %zu bytes\n", path, bytes);
    exit(1);
  }
  fclose(file);
  return pixels;
}

int main(int count, char **arguments) {
  if (count != 6) return fprintf(stderr, "use: run_iree MODULE IMAGE H W C\n"), 2;
  iree_hal_dim_t shape[4] = {1};
  for (int i = 1; i < 4; i++) shape[i] = strtoul(arguments[2 + i], NULL, 10);
  size_t bytes = shape[1] * shape[2] * shape[3];
  void *pixels = read_image(arguments[2], bytes);

  iree_runtime_instance_options_t options;
  iree_runtime_instance_options_initialize(&options);
  iree_runtime_instance_options_use_all_available_drivers(&options);
  iree_runtime_instance_t *instance = NULL;
  IREE_CHECK_OK(
      iree_runtime_instance_create(&options, iree_allocator_system(), &instance));
  iree_hal_device_t *device = NULL; /* that computes in this thread */
  IREE_CHECK_OK(iree_runtime_instance_try_create_default_device(
      instance, iree_make_cstring_view("local-sync"), &device));
  iree_runtime_session_options_t of_session;
  iree_runtime_session_options_initialize(&of_session);
  iree_runtime_session_t *session = NULL;
  IREE_CHECK_OK(iree_runtime_session_create_with_device(
      instance, &of_session, device, iree_runtime_instance_host_allocator(instance),
      &session));
  IREE_CHECK_OK(
      iree_runtime_session_append_bytecode_module_from_file(session, arguments[1]));

  iree_runtime_call_t call; /* keep it, and the session, for many images */
  IREE_CHECK_OK(iree_runtime_call_initialize_by_name(
      session, iree_make_cstring_view(FUNCTION), &call));
  iree_hal_buffer_view_t *image = NULL, *result = NULL;
  iree_hal_buffer_params_t params = {.type = IREE_HAL_MEMORY_TYPE_DEVICE_LOCAL,
                                     .access = IREE_HAL_MEMORY_ACCESS_ALL,
                                     .usage = IREE_HAL_BUFFER_USAGE_DEFAULT};
  IREE_CHECK_OK(iree_hal_buffer_view_allocate_buffer_copy(
      device, iree_runtime_session_device_allocator(session), 4, shape,
      IREE_HAL_ELEMENT_TYPE_INT_8, IREE_HAL_ENCODING_TYPE_DENSE_ROW_MAJOR, params,
      iree_make_const_byte_span(pixels, bytes), &image));
  IREE_CHECK_OK(iree_runtime_call_inputs_push_back_buffer_view(&call, image));
  IREE_CHECK_OK(iree_runtime_call_invoke(&call, 0));
  IREE_CHECK_OK(iree_runtime_call_outputs_pop_front_buffer_view(&call, &result));

  size_t classes = iree_hal_buffer_view_element_count(result), best = 0;
  float *logits = malloc(classes * sizeof(float));
  IREE_CHECK_OK(iree_hal_device_transfer_d2h(
      device, iree_hal_buffer_view_buffer(result), 0, logits, classes * sizeof(float),
      IREE_HAL_TRANSFER_BUFFER_FLAG_DEFAULT, iree_infinite_timeout()));
  for (size_t i = 0; i < classes; i++) {
    printf("logit %zu: %.4f\n", i, logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  printf("class %zu\n", best);

  iree_hal_buffer_view_release(result);
  iree_hal_buffer_view_release(image);
  iree_runtime_call_deinitialize(&call);
  iree_runtime_session_release(session);
  iree_hal_device_release(device);
  iree_runtime_instance_release(instance);
  return free(logits), free(pixels), 0;
}
