// The importable part of `ebm_ops._C`: loading it registers the operators of the other files.
#include <Python.h>

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};

PyMODINIT_FUNC PyInit__C(void) {
  PyObject* module = PyModule_Create(&definition);
  // at::parallel_for is a header: without OpenMP at compile time it silently runs on one thread.
#ifdef _OPENMP
  const int threaded = 1;
#else
  const int threaded = 0;
#endif
  if (module && PyModule_AddIntConstant(module, "threaded", threaded) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
