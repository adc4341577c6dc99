/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* No program asks for a version (features are probed); bcc's prelude wants the macros. */
#pragma once
#define KERNEL_VERSION(major, minor, patch) (((major) << 16) + ((minor) << 8) + ((patch) > 255 ? 255 : (patch)))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
