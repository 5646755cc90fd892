# Makes libvgpu's version script: the hooked names, dlsym and dlvsym are global, all else is local.
#   cmake -D LISTS=a.def,b.def -D FOLDER=... -D OUTPUT=... -P version_script.cmake
set(names dlsym dlvsym)
string(REPLACE "," ";" lists "${LISTS}")
foreach(list IN LISTS lists)
  file(STRINGS "${FOLDER}/${list}" lines REGEX "^X\\(")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^X\\(([A-Za-z0-9_]+)\\).*" "\\1" name "${line}")
    list(APPEND names "${name}")
  endforeach()
endforeach()
list(JOIN names ";\n\t\t" body)
file(WRITE "${OUTPUT}" "{\n\tglobal:\n\t\t${body};\n\tlocal:\n\t\t*;\n};\n")
