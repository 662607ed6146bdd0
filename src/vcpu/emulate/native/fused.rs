//! Fused multiply and add.

use super::table::stubs;

stubs! {
    /// Multiplication and addition, rounded once.
    FUSED, mayfly_native_fused, float: true;
    Vex Accumulate 4 1 "vfmadd132ps xmm0, xmm1, xmm2": Vfmadd132ps;
    Vex Accumulate 8 1 "vfmadd132pd xmm0, xmm1, xmm2": Vfmadd132pd;
    Vex ScalarAccumulate 4 1 "vfmadd132ss xmm0, xmm1, xmm2": Vfmadd132ss;
    Vex ScalarAccumulate 8 1 "vfmadd132sd xmm0, xmm1, xmm2": Vfmadd132sd;
    Vex Accumulate 4 1 "vfmadd213ps xmm0, xmm1, xmm2": Vfmadd213ps;
    Vex Accumulate 8 1 "vfmadd213pd xmm0, xmm1, xmm2": Vfmadd213pd;
    Vex ScalarAccumulate 4 1 "vfmadd213ss xmm0, xmm1, xmm2": Vfmadd213ss;
    Vex ScalarAccumulate 8 1 "vfmadd213sd xmm0, xmm1, xmm2": Vfmadd213sd;
    Vex Accumulate 4 1 "vfmadd231ps xmm0, xmm1, xmm2": Vfmadd231ps;
    Vex Accumulate 8 1 "vfmadd231pd xmm0, xmm1, xmm2": Vfmadd231pd;
    Vex ScalarAccumulate 4 1 "vfmadd231ss xmm0, xmm1, xmm2": Vfmadd231ss;
    Vex ScalarAccumulate 8 1 "vfmadd231sd xmm0, xmm1, xmm2": Vfmadd231sd;
    Vex Accumulate 4 1 "vfmsub132ps xmm0, xmm1, xmm2": Vfmsub132ps;
    Vex Accumulate 8 1 "vfmsub132pd xmm0, xmm1, xmm2": Vfmsub132pd;
    Vex ScalarAccumulate 4 1 "vfmsub132ss xmm0, xmm1, xmm2": Vfmsub132ss;
    Vex ScalarAccumulate 8 1 "vfmsub132sd xmm0, xmm1, xmm2": Vfmsub132sd;
    Vex Accumulate 4 1 "vfmsub213ps xmm0, xmm1, xmm2": Vfmsub213ps;
    Vex Accumulate 8 1 "vfmsub213pd xmm0, xmm1, xmm2": Vfmsub213pd;
    Vex ScalarAccumulate 4 1 "vfmsub213ss xmm0, xmm1, xmm2": Vfmsub213ss;
    Vex ScalarAccumulate 8 1 "vfmsub213sd xmm0, xmm1, xmm2": Vfmsub213sd;
    Vex Accumulate 4 1 "vfmsub231ps xmm0, xmm1, xmm2": Vfmsub231ps;
    Vex Accumulate 8 1 "vfmsub231pd xmm0, xmm1, xmm2": Vfmsub231pd;
    Vex ScalarAccumulate 4 1 "vfmsub231ss xmm0, xmm1, xmm2": Vfmsub231ss;
    Vex ScalarAccumulate 8 1 "vfmsub231sd xmm0, xmm1, xmm2": Vfmsub231sd;
    Vex Accumulate 4 1 "vfnmadd132ps xmm0, xmm1, xmm2": Vfnmadd132ps;
    Vex Accumulate 8 1 "vfnmadd132pd xmm0, xmm1, xmm2": Vfnmadd132pd;
    Vex ScalarAccumulate 4 1 "vfnmadd132ss xmm0, xmm1, xmm2": Vfnmadd132ss;
    Vex ScalarAccumulate 8 1 "vfnmadd132sd xmm0, xmm1, xmm2": Vfnmadd132sd;
    Vex Accumulate 4 1 "vfnmadd213ps xmm0, xmm1, xmm2": Vfnmadd213ps;
    Vex Accumulate 8 1 "vfnmadd213pd xmm0, xmm1, xmm2": Vfnmadd213pd;
    Vex ScalarAccumulate 4 1 "vfnmadd213ss xmm0, xmm1, xmm2": Vfnmadd213ss;
    Vex ScalarAccumulate 8 1 "vfnmadd213sd xmm0, xmm1, xmm2": Vfnmadd213sd;
    Vex Accumulate 4 1 "vfnmadd231ps xmm0, xmm1, xmm2": Vfnmadd231ps;
    Vex Accumulate 8 1 "vfnmadd231pd xmm0, xmm1, xmm2": Vfnmadd231pd;
    Vex ScalarAccumulate 4 1 "vfnmadd231ss xmm0, xmm1, xmm2": Vfnmadd231ss;
    Vex ScalarAccumulate 8 1 "vfnmadd231sd xmm0, xmm1, xmm2": Vfnmadd231sd;
    Vex Accumulate 4 1 "vfnmsub132ps xmm0, xmm1, xmm2": Vfnmsub132ps;
    Vex Accumulate 8 1 "vfnmsub132pd xmm0, xmm1, xmm2": Vfnmsub132pd;
    Vex ScalarAccumulate 4 1 "vfnmsub132ss xmm0, xmm1, xmm2": Vfnmsub132ss;
    Vex ScalarAccumulate 8 1 "vfnmsub132sd xmm0, xmm1, xmm2": Vfnmsub132sd;
    Vex Accumulate 4 1 "vfnmsub213ps xmm0, xmm1, xmm2": Vfnmsub213ps;
    Vex Accumulate 8 1 "vfnmsub213pd xmm0, xmm1, xmm2": Vfnmsub213pd;
    Vex ScalarAccumulate 4 1 "vfnmsub213ss xmm0, xmm1, xmm2": Vfnmsub213ss;
    Vex ScalarAccumulate 8 1 "vfnmsub213sd xmm0, xmm1, xmm2": Vfnmsub213sd;
    Vex Accumulate 4 1 "vfnmsub231ps xmm0, xmm1, xmm2": Vfnmsub231ps;
    Vex Accumulate 8 1 "vfnmsub231pd xmm0, xmm1, xmm2": Vfnmsub231pd;
    Vex ScalarAccumulate 4 1 "vfnmsub231ss xmm0, xmm1, xmm2": Vfnmsub231ss;
    Vex ScalarAccumulate 8 1 "vfnmsub231sd xmm0, xmm1, xmm2": Vfnmsub231sd;
    Vex Accumulate 4 1 "vfmaddsub132ps xmm0, xmm1, xmm2": Vfmaddsub132ps;
    Vex Accumulate 8 1 "vfmaddsub132pd xmm0, xmm1, xmm2": Vfmaddsub132pd;
    Vex Accumulate 4 1 "vfmaddsub213ps xmm0, xmm1, xmm2": Vfmaddsub213ps;
    Vex Accumulate 8 1 "vfmaddsub213pd xmm0, xmm1, xmm2": Vfmaddsub213pd;
    Vex Accumulate 4 1 "vfmaddsub231ps xmm0, xmm1, xmm2": Vfmaddsub231ps;
    Vex Accumulate 8 1 "vfmaddsub231pd xmm0, xmm1, xmm2": Vfmaddsub231pd;
    Vex Accumulate 4 1 "vfmsubadd132ps xmm0, xmm1, xmm2": Vfmsubadd132ps;
    Vex Accumulate 8 1 "vfmsubadd132pd xmm0, xmm1, xmm2": Vfmsubadd132pd;
    Vex Accumulate 4 1 "vfmsubadd213ps xmm0, xmm1, xmm2": Vfmsubadd213ps;
    Vex Accumulate 8 1 "vfmsubadd213pd xmm0, xmm1, xmm2": Vfmsubadd213pd;
    Vex Accumulate 4 1 "vfmsubadd231ps xmm0, xmm1, xmm2": Vfmsubadd231ps;
    Vex Accumulate 8 1 "vfmsubadd231pd xmm0, xmm1, xmm2": Vfmsubadd231pd;
}
