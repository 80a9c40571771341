//! Whether a file is a value of the kernel.

use std::fs::File;

/// Whether the file is a value that the kernel shows, in `/proc`, `/sys` or a file system of that kind (statfs(2)).
pub(crate) fn is_kernel_value(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    {
        const KERNEL_FILE_SYSTEMS: [i128; 12] = [
            0x0000_9fa0,
            0x6265_6572,
            0x0027_e0eb,
            0x6367_7270,
            0x6462_6720,
            0x7472_6163,
            0x6265_6570,
            0x7363_6673,
            0xf97c_ff8c,
            0xde5e_81e4,
            0x4249_4e4d,
            0x0765_5821,
        ];
        rustix::fs::fstatfs(file)
            .is_ok_and(|found| KERNEL_FILE_SYSTEMS.contains(&(i128::from(found.f_type) & i128::from(u32::MAX))))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}
