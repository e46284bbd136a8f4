//! The kernel inside of its image. An image unpacks itself, and one that xz has packed takes translated code longer for that
//! than all the rest of its boot; QEMU starts an unpacked kernel as well (by its PVH entry). Pure: bytes in, a part of them out.

/// Where the boot protocol has its mark, and its version behind that.
const MARK_AT: usize = 0x202;
const MARK: &[u8] = b"HdrS";
/// The first version that tells where the packed kernel lies.
const VERSION: u16 = 0x208;
const SECTOR: usize = 512;
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The kernel that `image` holds, if xz has packed it. Other packers are fast enough.
pub(super) fn packed_by_xz(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    let version = u16::from_le_bytes(*image.get(MARK_AT + MARK.len()..)?.first_chunk()?);
    if !image.get(MARK_AT..)?.starts_with(MARK) || version < VERSION {
        return None;
    }
    // Behind the first sector and those of the set-up code.
    let sectors = usize::from(*image.get(0x1f1)?) + 1;
    let begin = (sectors * SECTOR).checked_add(number(0x248)?)?;
    // The last four bytes are the plain length, and no part of what xz wrote.
    let length = number(0x24c)?.checked_sub(4)?;
    image.get(begin..begin.checked_add(length)?).filter(|packed| packed.starts_with(XZ))
}

#[cfg(test)]
mod tests {
    use super::packed_by_xz;

    /// As the kernel's Documentation/arch/x86/boot.rst has it: three sectors, then 7 bytes, then the kernel.
    fn image(kernel: &[u8], version: u16) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 7];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&7_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(kernel.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(kernel);
        image.extend_from_slice(b"size and the rest");
        image
    }

    #[test]
    fn the_kernel_is_found_in_its_image_and_only_if_xz_packed_it() {
        let kernel = b"\xfd7zXZ\0and more";
        assert_eq!(packed_by_xz(&image(kernel, 0x20f)), Some(&kernel[..]));
        assert_eq!(packed_by_xz(&image(kernel, 0x207)), None, "it does not tell where");
        assert_eq!(packed_by_xz(&image(b"\x28\xb5\x2f\xfdzstd", 0x20f)), None);
        for length in [0, 0x1f2, 0x203, 0x24d, 3 * 512 + 10] {
            assert_eq!(packed_by_xz(&image(kernel, 0x20f)[..length]), None, "{length}");
        }
    }
}
