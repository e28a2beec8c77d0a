// Names of what is compiled for several CPUs into one library.
//
// The build defines VARGFACENET_FORM as a form's name, and `vargfacenet` as a namespace of the
// form's own: functions of headers must not be shared between forms, or one that was compiled for
// AVX-512 would be called on a CPU that has none.

#ifndef VARGFACENET_FORM_H_
#define VARGFACENET_FORM_H_

#define VARGFACENET_JOIN_(form, name) vgs_##form##_##name
#define VARGFACENET_JOIN(form, name) VARGFACENET_JOIN_(form, name)
#define VARGFACENET_EXPORT(name) VARGFACENET_JOIN(VARGFACENET_FORM, name)

#endif  // VARGFACENET_FORM_H_
