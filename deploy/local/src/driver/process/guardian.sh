# Outlives the driver, however that dies: reads 'add GROUP' and 'drop GROUP' until standard input closes, then kills
# every process group still on its list.
trap '' HUP INT TERM
groups=' '
while read -r verb group; do
    case $verb in
    add) groups="$groups$group " ;;
    drop) groups="${groups%% "$group" *} ${groups#* "$group" }" ;;
    esac
done
for group in $groups; do
    kill -KILL "-$group"
done
