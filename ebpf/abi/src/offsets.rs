//! Where the fields of kernel structures are: found in the kernel's own BTF when the programs are loaded,
//! handed to them as read-only globals, because aya-ebpf has no CO-RE relocations.

use bytemuck::{Pod, Zeroable};

macro_rules! offsets {
    ($($name:ident: $structure:literal . $member:literal,)*) => {
        /// Byte offsets of the members the programs read, each named after what it is.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct Offsets {
            $(
                #[doc = concat!("`", $structure, ".", $member, "`")]
                pub $name: u32,
            )*
        }

        impl Offsets {
            /// Structure and member of every field, in the order of the fields.
            pub const MEMBERS: &'static [(&'static str, &'static str)] = &[$(($structure, $member),)*];
        }
    };
}

offsets! {
    task_mm: "task_struct"."mm",
    task_files: "task_struct"."files",
    task_fs: "task_struct"."fs",
    task_leader: "task_struct"."group_leader",
    task_parent: "task_struct"."real_parent",
    task_tgid: "task_struct"."tgid",
    task_start: "task_struct"."start_boottime",
    task_signal: "task_struct"."signal",
    task_exit_code: "task_struct"."exit_code",
    signal_live: "signal_struct"."live",
    signal_flags: "signal_struct"."flags",
    signal_exit_code: "signal_struct"."group_exit_code",
    mm_arg_start: "mm_struct"."arg_start",
    mm_arg_end: "mm_struct"."arg_end",
    mm_exe_file: "mm_struct"."exe_file",
    files_table: "files_struct"."fdt",
    table_length: "fdtable"."max_fds",
    table_files: "fdtable"."fd",
    fs_directory: "fs_struct"."pwd",
    path_mount: "path"."mnt",
    path_dentry: "path"."dentry",
    file_path: "file"."f_path",
    file_inode: "file"."f_inode",
    file_flags: "file"."f_flags",
    file_mode: "file"."f_mode",
    inode_number: "inode"."i_ino",
    inode_mode: "inode"."i_mode",
    inode_super: "inode"."i_sb",
    super_device: "super_block"."s_dev",
    dentry_parent: "dentry"."d_parent",
    dentry_name: "dentry"."d_name",
    name_length: "qstr"."len",
    name_bytes: "qstr"."name",
    mount_parent: "mount"."mnt_parent",
    mount_point: "mount"."mnt_mountpoint",
    mount_shown: "mount"."mnt",
    shown_root: "vfsmount"."mnt_root",
}

const _: () = assert!(size_of::<Offsets>() == 4 * Offsets::MEMBERS.len());
