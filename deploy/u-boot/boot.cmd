# Chooses the slot that boots, for Tidegate's agent and for RAUC: BOOT_ORDER are the slots that may boot, the one on trial
# first, BOOT_x_LEFT how often each may still be tried. Each try is counted before it is made.
#
# mkimage -A arm64 -T script -C none -d boot.cmd boot.scr; the environment has to be redundant
# (CONFIG_SYS_REDUNDAND_ENVIRONMENT), or a loss of power in saveenv can take it all.

test -n "${BOOT_ORDER}" || setenv BOOT_ORDER A B
test -n "${BOOT_A_LEFT}" || setenv BOOT_A_LEFT 3
test -n "${BOOT_B_LEFT}" || setenv BOOT_B_LEFT 3

setenv chosen
setenv last
for slot in ${BOOT_ORDER}; do
  setenv last ${slot}
  if test -n "${chosen}"; then
    true
  elif test ${slot} = A; then
    if test ${BOOT_A_LEFT} -gt 0; then
      setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
      setenv chosen a
    fi
  elif test ${slot} = B; then
    if test ${BOOT_B_LEFT} -gt 0; then
      setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
      setenv chosen b
    fi
  fi
done

if test -z "${chosen}"; then
  # Even the confirmed slot has failed three times. It is all there is: try it again, and never what failed its trial.
  setenv BOOT_${last}_LEFT 3
  saveenv
  reset
fi
saveenv

# From here on it is the board's: load the kernel of slot ${chosen}, and tell it which one that is.
setenv bootargs ${bootargs} tidegate.slot=${chosen}
run boot_${chosen}
reset
