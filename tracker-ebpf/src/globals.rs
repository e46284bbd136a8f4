//! Read-only globals: the offsets of `common::fields`, set by user space before the load. Unset ones are `ABSENT`.
//!
//! The verifier knows their values, so comparing with `ABSENT` costs nothing at run time.

use aya_ebpf::Global;
use common::fields::ABSENT;

macro_rules! globals {
    ($($global:ident: $need:ident $kind:ident $container:literal [$($member:literal),+];)+) => {
        $(
            #[doc = concat!("`", $container, "`: ", stringify!($($member),+))]
            #[unsafe(no_mangle)]
            pub(crate) static $global: Global<u32> = Global::new(ABSENT);
        )+
    };
}
common::kernel_fields!(globals);
